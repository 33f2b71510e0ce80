//! Writing a changed model: a folder in the Hugging Face layout, or a GGUF file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use serde_json::{Value, json};

use super::{Edited, Levels, Outcome, ShrinkError};
use crate::load::{
    Checkpoint, Dtype, LoadError, ModelFiles, Origin, RawTensor, TensorInfo, gguf, safetensors,
};

/// Writes the model as a folder that appears only when it is complete. Numbers have the type `plain`
/// (`F32`, `F16` or `BF16`).
///
/// # Errors
/// If something is at `path` already, or the disk is full.
pub fn folder(files: &ModelFiles, outcome: &Outcome, path: &Path, plain: Dtype) -> Result<(), ShrinkError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.exists() {
        let reason =
            std::io::Error::new(std::io::ErrorKind::AlreadyExists, "it exists already; choose another --out");
        return Err(LoadError::io("write", path, reason).into());
    }
    std::fs::create_dir_all(parent).map_err(|reason| LoadError::io("create", parent, reason))?;
    let building = tempfile::Builder::new().prefix(".whit-").tempdir_in(parent);
    let building = building.map_err(|reason| LoadError::io("create", parent, reason))?;
    fill(files, outcome, building.path(), plain)?;
    let made = building.keep();
    open_to_all(&made);
    std::fs::rename(&made, path).map_err(|reason| LoadError::io("write", path, reason))?;
    Ok(())
}

/// Temporary folders are private; a model need not be.
fn open_to_all(folder: &Path) {
    #[cfg(unix)]
    let _ = std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755));
    #[cfg(not(unix))]
    let _ = folder;
}

fn fill(files: &ModelFiles, outcome: &Outcome, folder: &Path, plain: Dtype) -> Result<(), ShrinkError> {
    let mut config = outcome.config.clone();
    config["torch_dtype"] = json!(match plain {
        Dtype::Bf16 => "bfloat16",
        Dtype::F16 => "float16",
        _ => "float32",
    });
    write_json(&folder.join("config.json"), &config)?;
    copy_companions(files, folder)?;
    let weights = &outcome.weights;
    let info = |name: String| {
        let shape = weights.info(&name)?.shape;
        Some((name, TensorInfo { dtype: plain, shape }))
    };
    let tensors: Vec<_> = weights.names().into_iter().filter_map(info).collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::save_with(&folder.join("model.safetensors"), &tensors, &metadata, |name| {
        let tensor = weights.read(name)?;
        Ok(Cow::Owned(if tensor.dtype == plain {
            tensor.bytes
        } else {
            as_type(&tensor.to_f32(name)?, plain)
        }))
    })?;
    Ok(())
}

fn as_type(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::Bf16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

/// Tokenizer, chat template and generation settings, as they are.
fn copy_companions(files: &ModelFiles, folder: &Path) -> Result<(), ShrinkError> {
    let from: Option<PathBuf> = match &files.origin {
        Origin::Folder(from) | Origin::Hub { folder: from, .. } => Some(from.clone()),
        Origin::Gguf(_) => None,
    };
    for name in COMPANIONS {
        let Some(source) = from.as_ref().map(|from| from.join(name)).filter(|source| source.is_file()) else {
            continue;
        };
        std::fs::copy(&source, folder.join(name)).map_err(|reason| LoadError::io("copy", &source, reason))?;
    }
    if let Some(tokenizer) = files.tokenizer.as_ref().filter(|_| !folder.join("tokenizer.json").exists()) {
        write_text(&folder.join("tokenizer.json"), &tokenizer.to_json()?)?;
        let settings = json!({"tokenizer_class": "PreTrainedTokenizerFast"});
        write_json(&folder.join("tokenizer_config.json"), &settings)?;
    }
    Ok(())
}

const COMPANIONS: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
];

fn write_json(path: &Path, value: &Value) -> Result<(), LoadError> {
    write_text(path, &format!("{value:#}\n"))
}

fn write_text(path: &Path, text: &str) -> Result<(), LoadError> {
    std::fs::write(path, text).map_err(|reason| LoadError::io("write", path, reason))
}

/// Writes the model as a GGUF file. Quantised matrices get the block type that holds their levels
/// exactly, where there is one; `choose` gives the type of all other matrices. Gives back how many
/// quantised matrices had no such type and were stored as `choose` says.
///
/// # Errors
/// As [`gguf::export`].
pub fn gguf_file(
    mut files: ModelFiles,
    outcome: Outcome,
    path: &Path,
    choose: impl Fn(&str, &TensorInfo) -> Dtype,
    progress: impl FnMut(usize, usize) -> bool,
) -> Result<usize, ShrinkError> {
    let blocks = Blocks::new(outcome.weights)?;
    let lost = blocks.lost;
    files.config = outcome.config;
    files.weights = Arc::new(blocks);
    let kept = |name: &str, info: &TensorInfo| {
        if info.dtype.is_quantized() { info.dtype } else { choose(name, info) }
    };
    gguf::export(&files, path, kept, progress)?;
    Ok(lost)
}

/// A changed checkpoint whose quantised matrices are GGUF blocks.
#[derive(Debug)]
struct Blocks {
    weights: Edited,
    types: BTreeMap<String, Dtype>,
    lost: usize,
}

impl Blocks {
    fn new(weights: Edited) -> Result<Self, LoadError> {
        let names: Vec<String> = weights.changed().map(str::to_owned).collect();
        let (mut types, mut lost) = (BTreeMap::new(), 0);
        for name in names {
            let Some(levels) = weights.levels(&name)? else { continue };
            match block_type(&levels) {
                Some(dtype) => drop(types.insert(name, dtype)),
                None => lost += 1,
            }
        }
        Ok(Self { weights, types, lost })
    }
}

impl Checkpoint for Blocks {
    fn names(&self) -> Vec<String> {
        self.weights.names()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let info = self.weights.info(name)?;
        Some(TensorInfo { dtype: self.types.get(name).copied().unwrap_or(info.dtype), ..info })
    }

    fn read(&self, name: &str) -> Result<RawTensor, LoadError> {
        match (self.types.get(name), self.weights.levels(name)?) {
            (Some(&dtype), Some(levels)) => {
                let shape = vec![levels.outputs, levels.inputs];
                Ok(RawTensor { dtype, shape, bytes: blocks(&levels, dtype) })
            }
            _ => self.weights.read(name),
        }
    }
}

/// The smallest GGUF type that holds these levels exactly. A type with a minimum stores `-scale * zero`
/// in half precision, so that it is exact only up to that.
fn block_type(levels: &Levels) -> Option<Dtype> {
    if !levels.group.is_multiple_of(32) {
        return None;
    }
    match (levels.bits, levels.is_symmetric()) {
        (2..=4, true) => Some(Dtype::Q4_0),
        (5, true) => Some(Dtype::Q5_0),
        (6..=8, true) => Some(Dtype::Q8_0),
        (2..=4, false) => Some(Dtype::Q4_1),
        (5, false) => Some(Dtype::Q5_1),
        _ => None,
    }
}

/// The blocks of 32 weights.
fn blocks(levels: &Levels, dtype: Dtype) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, block) in levels.levels.as_chunks::<32>().0.iter().enumerate() {
        let group = index * 32 / levels.group;
        let (scale, zero) = (levels.scales[group], levels.zeros[group]);
        bytes.extend(f16::from_f32(scale).to_le_bytes());
        match dtype {
            Dtype::Q8_0 => bytes.extend(block.map(|level| level.wrapping_sub(zero))),
            Dtype::Q4_0 | Dtype::Q5_0 => {
                let middle = if dtype == Dtype::Q4_0 { 8 } else { 16 };
                put_codes(&mut bytes, block.map(|level| level + middle - zero), dtype);
            }
            _ => {
                bytes.extend(f16::from_f32(-scale * f32::from(zero)).to_le_bytes());
                put_codes(&mut bytes, *block, dtype);
            }
        }
    }
    bytes
}

/// The fifth bits as a mask, where the type has them, then the low halves: code `i` beside code `i + 16`.
fn put_codes(bytes: &mut Vec<u8>, codes: [u8; 32], dtype: Dtype) {
    if matches!(dtype, Dtype::Q5_0 | Dtype::Q5_1) {
        let mask = (0..32).fold(0u32, |mask, i| mask | u32::from(codes[i] >> 4 & 1) << i);
        bytes.extend(mask.to_le_bytes());
    }
    bytes.extend((0..16).map(|i| codes[i] & 15 | (codes[i + 16] & 15) << 4));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Levels of all kinds, whose values in blocks must be those that they stand for.
    #[test]
    fn blocks_hold_the_levels_exactly() {
        for (bits, symmetric) in
            [(2, true), (4, true), (5, true), (6, true), (8, true), (3, false), (4, false), (5, false)]
        {
            let mut levels = Levels::new(3, 64, bits, 32);
            let top = (1u32 << bits) - 1;
            levels
                .levels
                .iter_mut()
                .enumerate()
                .for_each(|(i, level)| *level = (i as u32 * 7 % (top + 1)) as u8);
            levels.scales.iter_mut().enumerate().for_each(|(i, scale)| *scale = 0.25 * (i + 1) as f32);
            levels.zeros.iter_mut().enumerate().for_each(|(i, zero)| {
                *zero = if symmetric { 1 << (bits - 1) } else { i as u8 % (top as u8 + 1) };
            });
            let dtype = block_type(&levels).unwrap();
            let raw = RawTensor { dtype, shape: vec![3, 64], bytes: blocks(&levels, dtype) };
            assert_eq!(raw.bytes.len(), dtype.bytes_for(&raw.shape).unwrap());
            assert_eq!(raw.to_f32("x").unwrap(), levels.values(), "{bits} bits as {dtype}");
        }
        assert_eq!(block_type(&Levels::new(1, 48, 4, 48)), None);
    }
}
