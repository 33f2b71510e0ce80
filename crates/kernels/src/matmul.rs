//! Dense matrix products for training.
