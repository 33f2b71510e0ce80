//! Linear layers as GPTQ's tools store them: 4- or 8-bit levels in 32-bit words beside scales and zeros,
//! with a `quantization_config` in `config.json`. They are presented as matrices: of GGUF's blocks, which the
//! kernels take as they are, where every zero is in the middle and groups are whole blocks; else in `f32`.
//!
//! A layer `X` has `X.qweight` `[inputs * bits / 32, outputs]`, whose words hold levels of neighbouring inputs,
//! the first in the lowest bits; `X.qzeros` `[groups, outputs * bits / 32]`, whose words hold zeros of
//! neighbouring outputs, one less than they are in format `gptq`, as they are in `gptq_v2`; `X.scales`
//! `[groups, outputs]`; and `X.g_idx` `[inputs]`, the group of each input.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Checkpoint, LoadError, RawTensor, TensorInfo};
use crate::load::Dtype;

/// How the layers of a folder are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Bits of a level: 4 or 8.
    pub bits: u32,
    /// Neighbouring inputs that share a scale, where the config says a number; -1 there is the whole row.
    pub group: Option<usize>,
    /// Whether zeros are stored one less than they are.
    pub minus_one: bool,
}

impl Packing {
    /// What `quantization_config` says; `None` where there is none.
    ///
    /// # Errors
    /// The reason, where it describes something that cannot be read.
    pub fn read(config: &Value) -> Result<Option<Self>, String> {
        let Some(quantization) = config.get("quantization_config") else { return Ok(None) };
        let method = quantization["quant_method"].as_str().unwrap_or("none");
        if method != "gptq" {
            return Err(format!("weights quantised with `{method}` cannot be read; `gptq` can"));
        }
        let bits = quantization["bits"].as_u64().unwrap_or(0) as u32;
        if ![4, 8].contains(&bits) {
            return Err(format!("gptq weights of {bits} bits cannot be read; those of 4 and 8 can"));
        }
        let group = quantization["group_size"].as_i64().and_then(|group| usize::try_from(group).ok());
        let minus_one = quantization["checkpoint_format"].as_str().unwrap_or("gptq") != "gptq_v2";
        Ok(Some(Self { bits, group, minus_one }))
    }

    /// The `quantization_config`.
    pub fn json(&self, symmetric: bool) -> Value {
        json!({
            "quant_method": "gptq",
            "bits": self.bits,
            "group_size": self.group.map_or(json!(-1), |group| json!(group)),
            "desc_act": false,
            "sym": symmetric,
            "lm_head": false,
            "checkpoint_format": if self.minus_one { "gptq" } else { "gptq_v2" },
        })
    }

    /// The tensors of a packed layer.
    pub fn parts(&self, layer: &str, outputs: usize, inputs: usize) -> [(String, TensorInfo); 4] {
        let groups = inputs / self.group.unwrap_or(inputs);
        let part = |name: &str, dtype, shape| (format!("{layer}.{name}"), TensorInfo { dtype, shape });
        [
            part("qweight", Dtype::I32, vec![inputs / self.per_word(), outputs]),
            part("qzeros", Dtype::I32, vec![groups, outputs / self.per_word()]),
            part("scales", Dtype::F16, vec![groups, outputs]),
            part("g_idx", Dtype::I32, vec![inputs]),
        ]
    }

    /// Levels in a word.
    pub fn per_word(&self) -> usize {
        32 / self.bits as usize
    }

    /// Packs levels `[lines, length]` along the first axis: `[lines / per_word, length]` words.
    pub fn pack(&self, levels: &[u8], length: usize) -> Vec<u8> {
        let lines = levels.chunks_exact(length * self.per_word());
        let word = |lines: &[u8], at: usize| {
            (0..self.per_word())
                .fold(0u32, |word, i| word | u32::from(lines[i * length + at]) << (i as u32 * self.bits))
        };
        lines.flat_map(|lines| (0..length).flat_map(move |at| word(lines, at).to_le_bytes())).collect()
    }

    /// Level `index` of a word.
    fn level(&self, word: u32, index: usize) -> u8 {
        (word >> (index as u32 * self.bits) & ((1 << self.bits) - 1)) as u8
    }
}

/// A checkpoint whose packed layers read as matrices `X.weight`.
#[derive(Debug)]
pub struct Packed {
    inner: Arc<dyn Checkpoint>,
    packing: Packing,
    /// What each packed layer reads as: `[outputs, inputs]`.
    layers: BTreeMap<String, TensorInfo>,
}

const PARTS: [&str; 4] = [".qweight", ".qzeros", ".scales", ".g_idx"];

impl Packed {
    /// Finds the packed layers of `inner` and checks their shapes.
    ///
    /// # Errors
    /// [`LoadError::Misshapen`] and [`LoadError::MissingTensor`].
    pub fn new(inner: Arc<dyn Checkpoint>, packing: Packing) -> Result<Self, LoadError> {
        let mut layers = BTreeMap::new();
        for name in inner.names() {
            let Some(layer) = name.strip_suffix(".qweight") else { continue };
            let sizes = check(inner.as_ref(), layer, packing)?;
            layers.insert(layer.to_owned(), TensorInfo { dtype: Dtype::F32, shape: sizes.to_vec() });
        }
        let mut packed = Self { inner, packing, layers };
        let names: Vec<String> = packed.layers.keys().cloned().collect();
        for layer in names {
            if packed.fills_blocks(&layer)?
                && let Some(info) = packed.layers.get_mut(&layer)
            {
                info.dtype = if packing.bits == 4 { Dtype::Q4_0 } else { Dtype::Q8_0 };
            }
        }
        Ok(packed)
    }

    fn layer(&self, name: &str) -> Option<(&str, &TensorInfo)> {
        let layer = name.strip_suffix(".weight")?;
        self.layers.get_key_value(layer).map(|(layer, info)| (layer.as_str(), info))
    }

    /// Whether a layer is no more than blocks of 32 neighbours with a scale.
    fn fills_blocks(&self, layer: &str) -> Result<bool, LoadError> {
        let Some([_, inputs]) = self.layers.get(layer).map(|info| [info.shape[0], info.shape[1]]) else {
            return Ok(false);
        };
        let group = self.packing.group.unwrap_or(inputs).max(1);
        let order = self.groups(layer, inputs, inputs.div_ceil(group))?;
        let plain = order.iter().enumerate().all(|(input, &of)| of == input / group);
        let half = self.inner.info(&format!("{layer}.scales")).is_some_and(|info| info.dtype == Dtype::F16);
        let middle = (1u8 << (self.packing.bits - 1)) - u8::from(self.packing.minus_one);
        let byte = if self.packing.bits == 4 { middle | middle << 4 } else { middle };
        Ok(half
            && plain
            && group.is_multiple_of(32)
            && self.inner.read(&format!("{layer}.qzeros"))?.bytes.iter().all(|&zeros| zeros == byte))
    }

    /// The blocks of a layer that [`fills_blocks`](Self::fills_blocks).
    fn blocks(&self, layer: &str, info: &TensorInfo) -> Result<RawTensor, LoadError> {
        let [outputs, inputs] = [info.shape[0], info.shape[1]];
        let words = self.words(layer, ".qweight")?;
        let scales = self.inner.read(&format!("{layer}.scales"))?.bytes;
        let group = self.packing.group.unwrap_or(inputs);
        let per_word = self.packing.per_word();
        let mut bytes = Vec::with_capacity(info.bytes().unwrap_or(0));
        for output in 0..outputs {
            for block in 0..inputs / 32 {
                bytes.extend_from_slice(&scales[(block * 32 / group * outputs + output) * 2..][..2]);
                let level = |at: usize| {
                    let input = block * 32 + at;
                    self.packing.level(words[input / per_word * outputs + output], input % per_word)
                };
                match info.dtype {
                    Dtype::Q4_0 => bytes.extend((0..16).map(|at| level(at) | level(at + 16) << 4)),
                    _ => bytes.extend((0..32).map(|at| level(at).wrapping_sub(128))),
                }
            }
        }
        Ok(RawTensor { dtype: info.dtype, shape: info.shape.clone(), bytes })
    }

    fn words(&self, layer: &str, part: &str) -> Result<Vec<u32>, LoadError> {
        let tensor = self.inner.read(&format!("{layer}{part}"))?;
        Ok(tensor.bytes.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect())
    }

    fn unpack(&self, layer: &str, [outputs, inputs]: [usize; 2]) -> Result<RawTensor, LoadError> {
        let name = format!("{layer}.scales");
        let scales = self.inner.read(&name)?.to_f32(&name)?; // [groups, outputs]
        let (levels, zeros) = (self.words(layer, ".qweight")?, self.words(layer, ".qzeros")?);
        let groups = self.groups(layer, inputs, scales.len() / outputs)?;
        let per_word = self.packing.per_word();
        let top = ((1u32 << self.packing.bits) - 1) as u8;
        let add = u8::from(self.packing.minus_one);
        let mut values = vec![0.0; outputs * inputs];
        for (output, row) in values.chunks_exact_mut(inputs).enumerate() {
            for (input, value) in row.iter_mut().enumerate() {
                let group = groups[input];
                let level = self.packing.level(levels[input / per_word * outputs + output], input % per_word);
                let word = zeros[group * (outputs / per_word) + output / per_word];
                let zero = self.packing.level(word, output % per_word).wrapping_add(add) & top;
                *value = scales[group * outputs + output] * (f32::from(level) - f32::from(zero));
            }
        }
        Ok(RawTensor::from_f32(vec![outputs, inputs], &values))
    }

    /// The group of each input: as the file says, or in order.
    fn groups(&self, layer: &str, inputs: usize, count: usize) -> Result<Vec<usize>, LoadError> {
        let name = format!("{layer}.g_idx");
        if self.inner.info(&name).is_none() {
            return Ok((0..inputs).map(|input| input * count / inputs).collect());
        }
        let tensor = self.inner.read(&name)?;
        let groups: Vec<usize> =
            tensor.bytes.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes) as usize).collect();
        match groups.len() == inputs && groups.iter().all(|&group| group < count) {
            true => Ok(groups),
            false => Err(LoadError::Misshapen { name, found: tensor.shape, wanted: vec![inputs] }),
        }
    }
}

/// The outputs and inputs of a packed layer, once all its parts fit together.
fn check(inner: &dyn Checkpoint, layer: &str, packing: Packing) -> Result<[usize; 2], LoadError> {
    let shape = |part: &str, words: bool| -> Result<[usize; 2], LoadError> {
        let name = format!("{layer}{part}");
        let info = inner.info(&name).ok_or_else(|| inner.missing(&name))?;
        let typed = !words || matches!(info.dtype, Dtype::I32 | Dtype::U32);
        match info.shape[..] {
            [rows, columns] if typed && rows > 0 && columns > 0 => Ok([rows, columns]),
            _ => Err(LoadError::Misshapen { name, found: info.shape, wanted: vec![0, 0] }),
        }
    };
    let [rows, outputs] = shape(".qweight", true)?;
    let [groups, _] = shape(".scales", false)?;
    let inputs = rows.saturating_mul(packing.per_word());
    let fits = |part: &str, found: [usize; 2], wanted: [usize; 2]| match found == wanted {
        true => Ok(()),
        false => {
            let (found, wanted) = (found.to_vec(), wanted.to_vec());
            Err(LoadError::Misshapen { name: format!("{layer}{part}"), found, wanted })
        }
    };
    fits(".scales", shape(".scales", false)?, [groups, outputs])?;
    fits(".qzeros", shape(".qzeros", true)?, [groups, outputs / packing.per_word()])?;
    let group = packing.group.unwrap_or(inputs).max(1);
    fits(".scales", [groups, outputs], [inputs.div_ceil(group), outputs])?;
    Ok([outputs, inputs])
}

impl Checkpoint for Packed {
    fn names(&self) -> Vec<String> {
        let part = |name: &String| {
            PARTS
                .iter()
                .any(|part| name.strip_suffix(part).is_some_and(|layer| self.layers.contains_key(layer)))
        };
        let mut names: Vec<String> = self.inner.names().into_iter().filter(|name| !part(name)).collect();
        names.extend(self.layers.keys().map(|layer| format!("{layer}.weight")));
        names.sort();
        names
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        match self.layer(name) {
            Some((_, info)) => Some(info.clone()),
            None => self.inner.info(name),
        }
    }

    fn read(&self, name: &str) -> Result<RawTensor, LoadError> {
        match self.layer(name) {
            Some((layer, info)) if info.dtype.is_quantized() => self.blocks(layer, info),
            Some((layer, info)) => self.unpack(layer, [info.shape[0], info.shape[1]]),
            None => self.inner.read(name),
        }
    }

    fn total_bytes(&self) -> u64 {
        self.inner.total_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_hold_neighbours_lowest_first() {
        let packing = Packing { bits: 4, group: None, minus_one: false };
        // Eight lines of two columns: column 0 counts up, column 1 is 15.
        let levels: Vec<u8> = (0..8).flat_map(|i| [i, 15]).collect();
        assert_eq!(packing.pack(&levels, 2), [0x76543210u32.to_le_bytes(), u32::MAX.to_le_bytes()].concat());
        assert_eq!(
            (0..8).map(|i| packing.level(0x76543210, i)).collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 5, 6, 7]
        );
    }

    #[test]
    fn configs_are_read_back_and_others_are_refused() {
        for packing in [
            Packing { bits: 4, group: Some(128), minus_one: true },
            Packing { bits: 8, group: None, minus_one: false },
        ] {
            let config = json!({ "quantization_config": packing.json(true) });
            assert_eq!(Packing::read(&config), Ok(Some(packing)));
        }
        assert_eq!(Packing::read(&json!({})), Ok(None));
        for (method, bits) in [("awq", 4), ("gptq", 3)] {
            let config = json!({ "quantization_config": { "quant_method": method, "bits": bits } });
            assert!(Packing::read(&config).is_err());
        }
    }
}
