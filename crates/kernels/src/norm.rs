//! Normalisation: RMS, layer and group norm, with the residual sum fused in.
