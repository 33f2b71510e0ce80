//! Storing any opened model as GGUF, with its matrices in another type.

use std::borrow::Cow;
use std::path::Path;

use super::{GgufError, Model, save_with};
use crate::load::{Dtype, LoadError, ModelFiles, RawTensor, TensorInfo, blocks};

/// Writes `files` as a GGUF file, one tensor after the other, so that only one is in memory.
///
/// `choose` says the type of each matrix by its Hugging Face name (`F32`, `F16`, `BF16` or a block type whose blocks
/// fill its rows); a matrix that has that type already is copied byte for byte. Vectors are stored in `f32`.
/// `progress` is called with the number of tensors written and of all; it says whether to go on.
///
/// # Errors
/// [`LoadError::Gguf`] if the model or a type cannot be expressed, [`LoadError::Io`], [`LoadError::Interrupted`].
pub fn export(
    files: &ModelFiles,
    path: &Path,
    choose: impl Fn(&str, &TensorInfo) -> Dtype,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<(), LoadError> {
    let tensors: Vec<_> = files
        .weights
        .names()
        .into_iter()
        .filter_map(|name| {
            let info = files.weights.info(&name)?;
            let dtype = if info.shape.len() < 2 { Dtype::F32 } else { choose(&name, &info) };
            Some((name, TensorInfo { dtype, shape: info.shape }))
        })
        .collect();
    let (tokenizer, chat_template) = (files.tokenizer.as_ref(), files.chat_template.as_ref());
    let model = Model { config: &files.config, tokenizer, chat_template, tensors: &tensors };
    let mut done = 0;
    save_with(path, &model, |name| {
        let wanted =
            tensors.iter().find(|(other, _)| other == name).map_or(Dtype::F32, |(_, info)| info.dtype);
        let bytes = convert(name, files.weights.read(name)?, wanted).map_err(|reason| match reason {
            Failure::Load(error) => error,
            Failure::Type(reason) => LoadError::gguf(path, GgufError::Unwritable { reason }),
        })?;
        done += 1;
        if progress(done, tensors.len()) { Ok(Cow::Owned(bytes)) } else { Err(LoadError::Interrupted) }
    })
}

enum Failure {
    Load(LoadError),
    Type(String),
}

/// As [`export`] stores `tensor` as `wanted`.
pub(crate) fn stored(name: &str, tensor: RawTensor, wanted: Dtype) -> Result<Vec<u8>, LoadError> {
    convert(name, tensor, wanted).map_err(|reason| match reason {
        Failure::Load(error) => error,
        Failure::Type(reason) => LoadError::gguf(Path::new("the model"), GgufError::Unwritable { reason }),
    })
}

fn convert(name: &str, tensor: RawTensor, wanted: Dtype) -> Result<Vec<u8>, Failure> {
    if tensor.dtype == wanted {
        return Ok(tensor.bytes);
    }
    let values = tensor.to_f32(name).map_err(Failure::Load)?;
    Ok(match wanted {
        Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
        Dtype::Bf16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
        other => blocks::quantize(other, &values)
            .map_err(|reason| Failure::Type(format!("tensor {name:?} as {other}: {reason}")))?,
    })
}
