//! The compressor that comes with Whit: trained by the recipe `squeeze-en`, described in `models/squeeze-en`.

use std::sync::{Arc, OnceLock};

use super::{SqueezeError, Squeezer};
use crate::load::embedded::Embedded;
use crate::nn::vars::{Precision, Storage};

const SQUEEZE_EN: Embedded = Embedded {
    name: "squeeze-en",
    config: include_bytes!("../../../../models/squeeze-en/config.json"),
    weights: include_bytes!("../../../../models/squeeze-en/model.safetensors"),
    tokenizer: Some(include_bytes!("../../../../models/squeeze-en/tokenizer.json")),
};

/// The compressor of English text that needs no file; it is read once.
///
/// # Errors
/// If there is not enough memory.
pub fn shipped() -> Result<Arc<Squeezer>, SqueezeError> {
    static SHIPPED: OnceLock<Arc<Squeezer>> = OnceLock::new();
    if let Some(squeezer) = SHIPPED.get() {
        return Ok(Arc::clone(squeezer));
    }
    let squeezer = Arc::new(Squeezer::new(SQUEEZE_EN.open()?, &Storage::Packed(Precision::Native), &|_| {})?);
    Ok(Arc::clone(SHIPPED.get_or_init(|| squeezer)))
}
