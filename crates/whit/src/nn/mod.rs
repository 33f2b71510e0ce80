//! The blocks that all architectures are made of.

pub mod activation;
pub mod attention;
pub mod block;
pub mod block_ffn;
pub mod chimera;
pub mod decoder;
pub mod embedding;
pub mod encoder;
pub mod exits;
pub mod experts;
pub mod inventory;
pub mod latent;
pub mod linear;
pub mod mlp;
pub mod norm;
mod positions;
pub mod reduce;
pub mod rotary;
pub mod tempered;
pub mod top_k;
pub mod vars;
pub mod vision;
pub mod white;
pub mod white_mae;
