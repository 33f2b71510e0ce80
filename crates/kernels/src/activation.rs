//! Activations: GELU, SiLU and their gated products.
