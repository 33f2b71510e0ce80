//! The models that come with the command: trained by the recipes of their names, described in `models`.

use whit::load::embedded::Embedded;

/// A small language model of Rust source.
pub const RUST_LM: Embedded = Embedded {
    name: "rust-lm",
    config: include_bytes!("../../../models/rust-lm/config.json"),
    weights: include_bytes!("../../../models/rust-lm/model.safetensors"),
    tokenizer: Some(include_bytes!("../../../models/rust-lm/tokenizer.json")),
};

/// A small classifier of the toy world's scenes.
pub const TOY_CRATE: Embedded = Embedded {
    name: "toy-crate",
    config: include_bytes!("../../../models/toy-crate/config.json"),
    weights: include_bytes!("../../../models/toy-crate/model.safetensors"),
    tokenizer: None,
};
