//! The model that comes with the command: trained by the recipe `rust-lm`, described in `models/rust-lm`.

use whit::load::embedded::Embedded;

/// A small language model of Rust source.
pub const RUST_LM: Embedded = Embedded {
    name: "rust-lm",
    config: include_bytes!("../../../models/rust-lm/config.json"),
    weights: include_bytes!("../../../models/rust-lm/model.safetensors"),
    tokenizer: include_bytes!("../../../models/rust-lm/tokenizer.json"),
};
