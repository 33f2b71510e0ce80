//! Writing a changed model: a folder in the Hugging Face layout, or a GGUF file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use serde_json::{Value, json};

use super::search::Choose;
use super::{Edited, Levels, Outcome, ShrinkError};
use crate::load::packed::Packing;
use crate::load::{
    Checkpoint, Dtype, LoadError, ModelFiles, Origin, RawTensor, TensorInfo, gguf, safetensors,
};

/// How a folder holds its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The type of plain numbers: `F32`, `F16` or `BF16`.
    pub plain: Dtype,
    /// How quantised matrices are packed; where none, they are plain numbers too.
    pub packing: Option<Packing>,
}

/// Writes the model as a folder that appears only when it is complete.
///
/// # Errors
/// If something is at `path` already, or the disk is full.
pub fn folder(
    files: &ModelFiles,
    outcome: &Outcome,
    path: &Path,
    numbers: Numbers,
) -> Result<(), ShrinkError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.exists() {
        let reason =
            std::io::Error::new(std::io::ErrorKind::AlreadyExists, "it exists already; choose another --out");
        return Err(LoadError::io("write", path, reason).into());
    }
    std::fs::create_dir_all(parent).map_err(|reason| LoadError::io("create", parent, reason))?;
    let building = tempfile::Builder::new().prefix(".whit-").tempdir_in(parent);
    let building = building.map_err(|reason| LoadError::io("create", parent, reason))?;
    fill(files, outcome, building.path(), numbers)?;
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

fn fill(files: &ModelFiles, outcome: &Outcome, folder: &Path, numbers: Numbers) -> Result<(), ShrinkError> {
    let mut config = outcome.config.clone();
    config["torch_dtype"] = json!(match numbers.plain {
        Dtype::Bf16 => "bfloat16",
        Dtype::F16 => "float16",
        _ => "float32",
    });
    let weights = &outcome.weights;
    if let (Some(packing), Some(fields)) = (numbers.packing, config.as_object_mut()) {
        fields.insert("quantization_config".into(), packing.json(packing.minus_one));
    }
    write_json(&folder.join("config.json"), &config)?;
    copy_companions(files, folder)?;
    let mut tensors = Vec::new();
    for name in weights.names() {
        let Some(info) = weights.info(&name) else { continue };
        match (numbers.packing, name.strip_suffix(".weight")) {
            (Some(packing), Some(layer)) if weights.is_quantised(&name) => {
                tensors.extend(packing.parts(layer, info.shape[0], info.shape[1]));
            }
            _ => tensors.push((name, TensorInfo { dtype: numbers.plain, shape: info.shape })),
        }
    }
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::save_with(&folder.join("model.safetensors"), &tensors, &metadata, |name| {
        if let Some((packing, (layer, part))) = numbers.packing.zip(name.rsplit_once('.'))
            && let Some(levels) = weights.levels(&format!("{layer}.weight"))?
        {
            return Ok(Cow::Owned(packed_part(&levels, packing, part)));
        }
        let tensor = weights.read(name)?;
        let same = tensor.dtype == numbers.plain;
        Ok(Cow::Owned(if same { tensor.bytes } else { as_type(&tensor.to_f32(name)?, numbers.plain) }))
    })?;
    Ok(())
}

/// How the quantised matrices of a model can be packed: where all have the same 4 or 8 bits and groups.
///
/// # Errors
/// If the temporary file cannot be read.
pub fn packing(weights: &Edited) -> Result<Option<Packing>, LoadError> {
    let (mut found, mut symmetric) = (None, true);
    let names: Vec<&str> = weights.changed().filter(|name| weights.is_quantised(name)).collect();
    for name in names {
        let Some(levels) = weights.levels(name)? else { continue };
        let group = (levels.group != levels.inputs).then_some(levels.group);
        let one = Packing { bits: levels.bits, group, minus_one: true };
        let fits = [4, 8].contains(&levels.bits)
            && levels.inputs.is_multiple_of(one.per_word())
            && levels.outputs.is_multiple_of(one.per_word());
        if !fits || found.is_some_and(|other| other != one) {
            return Ok(None);
        }
        symmetric &= levels.is_symmetric();
        found = Some(one);
    }
    Ok(found.map(|packing| Packing { minus_one: symmetric, ..packing }))
}

/// One of the tensors that a packed matrix consists of.
fn packed_part(levels: &Levels, packing: Packing, part: &str) -> Vec<u8> {
    let (outputs, inputs) = (levels.outputs, levels.inputs);
    let groups = inputs / levels.group;
    match part {
        "qweight" => {
            let turned: Vec<u8> =
                (0..inputs * outputs).map(|at| levels.levels[at % outputs * inputs + at / outputs]).collect();
            packing.pack(&turned, outputs)
        }
        "qzeros" => {
            let less = u8::from(packing.minus_one);
            let of =
                |group: usize| (0..outputs).map(move |output| levels.zeros[output * groups + group] - less);
            (0..groups).flat_map(|group| packing.pack(&of(group).collect::<Vec<_>>(), 1)).collect()
        }
        "scales" => {
            let scale = |at: usize| f16::from_f32(levels.scales[at % outputs * groups + at / outputs]);
            (0..groups * outputs).flat_map(|at| scale(at).to_le_bytes()).collect()
        }
        _ => (0..inputs).flat_map(|input| ((input / levels.group) as i32).to_le_bytes()).collect(),
    }
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
    choose: Choose,
    progress: impl FnMut(usize, usize) -> bool,
) -> Result<usize, ShrinkError> {
    let typed = Typed::new(outcome.weights, choose)?;
    let lost = typed.lost;
    files.config = outcome.config;
    files.weights = Arc::new(typed);
    gguf::export(&files, path, |_, info| info.dtype, progress)?;
    Ok(lost)
}

/// A changed checkpoint in the types of its GGUF file: quantised matrices as blocks of their levels, all
/// others as was chosen.
pub struct Typed {
    weights: Edited,
    /// The types of quantised matrices.
    blocks: BTreeMap<String, Dtype>,
    choose: Choose,
    lost: usize,
}

impl Typed {
    /// `weights` with quantised matrices in the types that hold them, and the others as `choose` says.
    ///
    /// # Errors
    /// If a temporary file cannot be read.
    pub fn new(weights: Edited, choose: Choose) -> Result<Self, LoadError> {
        let names: Vec<String> = weights.changed().map(str::to_owned).collect();
        let (mut blocks, mut lost) = (BTreeMap::new(), 0);
        for name in names {
            let Some(levels) = weights.levels(&name)? else { continue };
            match block_type(&levels) {
                Some(dtype) => drop(blocks.insert(name, dtype)),
                None => lost += 1,
            }
        }
        Ok(Self { weights, blocks, choose, lost })
    }
}

impl std::fmt::Debug for Typed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Typed")
            .field("weights", &self.weights)
            .field("blocks", &self.blocks)
            .finish_non_exhaustive()
    }
}

impl Checkpoint for Typed {
    fn names(&self) -> Vec<String> {
        self.weights.names()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let info = self.weights.info(name)?;
        let dtype = match self.blocks.get(name) {
            Some(&dtype) => dtype,
            None if info.shape.len() < 2 => Dtype::F32,
            None => (self.choose)(name, &info),
        };
        Some(TensorInfo { dtype, ..info })
    }

    fn read(&self, name: &str) -> Result<RawTensor, LoadError> {
        let Some(TensorInfo { dtype, shape }) = self.info(name) else { return Err(self.missing(name)) };
        if let (true, Some(levels)) = (self.blocks.contains_key(name), self.weights.levels(name)?) {
            return Ok(RawTensor { dtype, shape, bytes: blocks(&levels, dtype) });
        }
        Ok(RawTensor { dtype, shape, bytes: gguf::stored(name, self.weights.read(name)?, dtype)? })
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
