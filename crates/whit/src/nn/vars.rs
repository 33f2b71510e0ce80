//! Where a network's weights come from. A block asks for its variables by the names that checkpoints
//! use, so the code that builds a model is also the description of its files.

use std::fmt;
use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use thiserror::Error;
use whit_kernels::block_ffn::BlockFfnError;
use whit_kernels::linear::{self, LinearError, PackedLinear, Pattern, WeightType};

use super::decoder::NormConfig;
use super::embedding::Embedding;
use super::linear::Linear;
use super::norm::Norm;
use crate::load::LoadError;

/// Why a variable could not be had.
#[derive(Debug, Error)]
pub enum VarsError {
    /// The checkpoint has no such tensor.
    #[error(
        "tensor `{0}` is missing; the checkpoint is incomplete or of another architecture than config.json says"
    )]
    Missing(String),
    /// The tensor is there, in another shape.
    #[error("tensor `{name}` has shape {found:?}, but config.json asks for {wanted:?}")]
    Shape {
        /// The tensor's name.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape that the configuration asks for.
        wanted: Vec<usize>,
    },
    /// The file could not be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The weight type cannot hold this matrix.
    #[error("tensor `{name}`: {reason}")]
    Pack {
        /// The tensor's name.
        name: String,
        /// What the packer says.
        reason: LinearError,
    },
    /// A block of experts cannot be packed.
    #[error("tensor `{name}`: {reason}")]
    Experts {
        /// The name of the up-projection.
        name: String,
        /// What the packer says.
        reason: BlockFfnError,
    },
}

/// What a variable looks like before training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal with this standard deviation.
    Normal(f32),
    /// One value everywhere.
    Constant(f32),
}

/// Gives out the values of named variables.
pub trait Source: Sync {
    /// Checks that variable `name` exists in `shape`.
    ///
    /// # Errors
    /// [`VarsError::Missing`] or [`VarsError::Shape`].
    fn check(&self, name: &str, shape: &[usize]) -> Result<(), VarsError>;

    /// Whether there is a variable of this name.
    fn has(&self, name: &str) -> bool;

    /// The values of some rows (along the first dimension) of a variable that passed [`check`](Self::check).
    ///
    /// # Errors
    /// If the file cannot be read.
    fn rows(&self, name: &str, rows: Range<usize>, width: usize, init: Init) -> Result<Vec<f32>, VarsError>;

    /// The type of the variable's quantised blocks, where it is stored in one that can be used as it is.
    fn block_type(&self, name: &str) -> Option<WeightType> {
        let _ = name;
        None
    }

    /// The bytes of some rows of a variable that has a [`block_type`](Self::block_type).
    ///
    /// # Errors
    /// If the file cannot be read.
    fn blocks(&self, name: &str, rows: Range<usize>) -> Result<Vec<u8>, VarsError> {
        let _ = rows;
        Err(VarsError::Missing(name.to_owned()))
    }

    /// The shape of a variable, where the source knows it; those that are made up have none.
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let _ = name;
        None
    }

    /// The type that keeps the variable's values exactly and compactly.
    fn native(&self, name: &str) -> WeightType;
}

/// The matrix that a factorised layer multiplies with last: `LAYER.low_rank_out.weight` `[outputs, rank]`.
pub const LOW_RANK_OUT: &str = "low_rank_out";

/// The matrix that a factorised layer multiplies with first: `LAYER.low_rank_in.weight` `[rank, inputs]`.
pub const LOW_RANK_IN: &str = "low_rank_in";

/// In which form matrices are kept.
#[derive(Clone, Debug)]
pub enum Storage {
    /// As parameters on a device: for training, and for devices other than the CPU.
    Dense(Device),
    /// Packed for the CPU's kernels.
    Packed(Precision),
}

/// Which type packed matrices get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// The type that the file has.
    Native,
    /// One type for all.
    Fixed(WeightType),
    /// llama.cpp's mixture Q4_K_M for a model of so many layers: Q4_K, with Q6_K where it matters most.
    Q4KM {
        /// The number of layers.
        layers: usize,
    },
}

/// The variables below one name.
#[derive(Clone)]
pub struct Vars<'a> {
    source: &'a dyn Source,
    storage: &'a Storage,
    prefix: String,
    progress: &'a (dyn Fn(usize) + Sync),
}

impl<'a> Vars<'a> {
    /// The variables of `source`, kept as `storage` says.
    pub fn new(source: &'a dyn Source, storage: &'a Storage) -> Self {
        Self { source, storage, prefix: String::new(), progress: &|_| {} }
    }

    /// Calls `progress` with the number of values after each variable that was read.
    pub fn with_progress(self, progress: &'a (dyn Fn(usize) + Sync)) -> Self {
        Self { progress, ..self }
    }

    /// The variables below `name`.
    pub fn at(&self, name: impl ToString) -> Self {
        Self { prefix: self.path(&name.to_string()), ..self.clone() }
    }

    /// The full name of a variable.
    pub fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    /// A linear layer `name.weight` `[outputs, inputs]`, and `name.bias` where there is one.
    ///
    /// # Errors
    /// If a variable is missing, misshapen or unreadable, or cannot be packed.
    pub fn linear(&self, name: &str, outputs: usize, inputs: usize, bias: bool) -> Result<Linear, VarsError> {
        let vars = self.at(name);
        let bias = if bias { Some(vars.vector("bias", outputs, Init::Constant(0.0))?) } else { None };
        vars.matrix(outputs, inputs, bias)
    }

    /// An embedding table `name.weight` `[rows, width]`.
    ///
    /// # Errors
    /// As [`linear`](Self::linear).
    pub fn embedding(&self, name: &str, rows: usize, width: usize) -> Result<Embedding, VarsError> {
        self.at(name).matrix(rows, width, None).map(Embedding::new)
    }

    /// A norm `name.weight`, with `name.bias` where it is a layer norm.
    ///
    /// # Errors
    /// If a variable is missing, misshapen or unreadable.
    pub fn norm(&self, name: &str, width: usize, config: NormConfig) -> Result<Norm, VarsError> {
        let vars = self.at(name);
        let weight = vars.vector("weight", width, Init::Constant(1.0))?;
        if !config.centred {
            return Ok(Norm::rms(weight, config.epsilon));
        }
        let bias = vars.vector("bias", width, Init::Constant(0.0))?;
        Ok(Norm::layer(weight, Some(bias), config.epsilon))
    }

    /// The values of matrix `name.weight` and the type they shall be packed in, for a block that packs
    /// its matrices in a way of its own; none where matrices are parameters.
    ///
    /// # Errors
    /// If the variable is missing, misshapen or unreadable.
    pub fn own(
        &self,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Option<(Vec<f32>, WeightType)>, VarsError> {
        let Storage::Packed(precision) = self.storage else { return Ok(None) };
        let path = self.at(name).path("weight");
        self.source.check(&path, &[outputs, inputs])?;
        let values = self.source.rows(&path, 0..outputs, inputs, NORMAL)?;
        (self.progress)(outputs * inputs);
        let kind = precision.for_matrix(&path, inputs, || self.source.native(&path));
        Ok(Some((values, kind)))
    }

    /// The variable `name`, a vector.
    ///
    /// # Errors
    /// If it is missing, misshapen or unreadable.
    pub fn vector(&self, name: &str, length: usize, init: Init) -> Result<Tensor<1>, VarsError> {
        let path = self.path(name);
        self.source.check(&path, &[length])?;
        let values = self.source.rows(&path, 0..length, 1, init)?;
        (self.progress)(length);
        Ok(Tensor::from_data(TensorData::new(values, [length]), &self.device()))
    }

    /// The variable `name`, rows that are added to others and so always kept in f32.
    ///
    /// # Errors
    /// If it is missing, misshapen or unreadable.
    pub fn rows(&self, name: &str, rows: usize, width: usize) -> Result<Tensor<2>, VarsError> {
        let path = self.path(name);
        self.source.check(&path, &[rows, width])?;
        let values = self.source.rows(&path, 0..rows, width, NORMAL)?;
        (self.progress)(rows * width);
        Ok(Tensor::from_data(TensorData::new(values, [rows, width]), &self.device()))
    }

    fn matrix(&self, outputs: usize, inputs: usize, bias: Option<Tensor<1>>) -> Result<Linear, VarsError> {
        if let Some(rank) = self.rank() {
            return self.factorised(outputs, rank, inputs, bias);
        }
        let path = self.path("weight");
        self.source.check(&path, &[outputs, inputs])?;
        let layer = match self.storage {
            Storage::Dense(device) => {
                let values = self.source.rows(&path, 0..outputs, inputs, NORMAL)?;
                Linear::dense(Tensor::from_data(TensorData::new(values, [outputs, inputs]), device), bias)
            }
            Storage::Packed(precision) => {
                let packed = self.pack(*precision, &path, outputs, inputs)?;
                Linear::packed(packed, bias)
            }
        };
        (self.progress)(outputs * inputs);
        Ok(layer)
    }

    /// The rank of a layer that is stored as two thin matrices.
    fn rank(&self) -> Option<usize> {
        self.source.shape(&self.at(LOW_RANK_OUT).path("weight"))?.last().copied()
    }

    /// A layer of two thin matrices; where it is to be trained, their product.
    fn factorised(
        &self,
        outputs: usize,
        rank: usize,
        inputs: usize,
        bias: Option<Tensor<1>>,
    ) -> Result<Linear, VarsError> {
        let last = self.at(LOW_RANK_OUT).matrix(outputs, rank, bias)?;
        let first = self.at(LOW_RANK_IN).matrix(rank, inputs, None)?;
        Ok(last.after(first))
    }

    fn pack(
        &self,
        precision: Precision,
        path: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<PackedLinear, VarsError> {
        let failed = |reason| VarsError::Pack { name: path.to_owned(), reason };
        let blocks = match precision {
            Precision::Native => self.source.block_type(path),
            _ => None,
        };
        let kind = blocks.unwrap_or_else(|| precision.for_matrix(path, inputs, || self.source.native(path)));
        if blocks.is_none()
            && let Some(packed) = self.sparse(kind, path, outputs, inputs)?
        {
            return Ok(packed);
        }
        let mut packed = PackedLinear::zeros(outputs, inputs, kind).map_err(failed)?;
        for start in (0..outputs).step_by(piece(inputs)) {
            let rows = start..outputs.min(start + piece(inputs));
            if blocks.is_some() {
                packed.set_blocks(start, &self.source.blocks(path, rows)?).map_err(failed)?;
            } else {
                packed.set_rows(start, &self.source.rows(path, rows, inputs, NORMAL)?).map_err(failed)?;
            }
        }
        Ok(packed)
    }

    /// The matrix in a form that leaves zeros out, where its zeros lie so that this pays: its first rows
    /// show whether all of them are worth looking at.
    fn sparse(
        &self,
        kind: WeightType,
        path: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Option<PackedLinear>, VarsError> {
        let rows = |count: usize| self.source.rows(path, 0..count, inputs, NORMAL);
        if Pattern::of(&rows(outputs.min(2 * linear::PIECE))?, inputs, kind).is_none() {
            return Ok(None);
        }
        let values = rows(outputs)?;
        let Some(pattern) = Pattern::of(&values, inputs, kind) else { return Ok(None) };
        let packed = PackedLinear::pack_sparse(&values, outputs, inputs, kind, pattern);
        packed.map(Some).map_err(|reason| VarsError::Pack { name: path.to_owned(), reason })
    }

    /// Where parameters lie.
    pub fn device(&self) -> Device {
        match self.storage {
            Storage::Dense(device) => device.clone(),
            Storage::Packed(_) => Device::flex(),
        }
    }
}

/// The values that are unpacked at a time while a matrix is packed.
const UNPACKED: usize = 1 << 22;

/// Rows of `inputs` values that are read at a time.
fn piece(inputs: usize) -> usize {
    (UNPACKED / inputs.max(1)).next_multiple_of(linear::PIECE)
}

const NORMAL: Init = Init::Normal(0.02);

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense(_) => f.write_str("f32"),
            Self::Packed(precision) => precision.fmt(f),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => f.write_str("native"),
            Self::Fixed(kind) => kind.fmt(f),
            Self::Q4KM { .. } => f.write_str("q4_k_m"),
        }
    }
}

impl Precision {
    /// The type of one matrix: the wanted one where it can hold rows of `inputs` values, or else the
    /// next more precise one that can.
    pub fn for_matrix(self, name: &str, inputs: usize, native: impl FnOnce() -> WeightType) -> WeightType {
        let wanted = match self {
            Self::Native => native(),
            Self::Fixed(kind) => kind,
            Self::Q4KM { layers } => q4_k_m(name, layers),
        };
        wanted.fitting(inputs)
    }
}

/// llama.cpp's choice for `Q4_K_M`: the output and, in three of eight layers, values and
/// down-projections get Q6_K.
fn q4_k_m(name: &str, layers: usize) -> WeightType {
    let layer = name.split('.').find_map(|part| part.parse::<usize>().ok());
    let generous = |layer: usize| {
        let eighth = layers / 8;
        layer < eighth || layer >= 7 * eighth || (layer - eighth) % 3 == 2
    };
    let sensitive = name.contains("v_proj") || name.contains("down_proj") || name.contains(".w2.");
    let output = name.starts_with("lm_head") || name.contains("embed_tokens");
    match layer {
        Some(layer) if sensitive && generous(layer) => WeightType::Q6K,
        None if output => WeightType::Q6K,
        _ => WeightType::Q4K,
    }
}

/// Variables drawn at random: for training from scratch, and for timing models of a real size.
#[derive(Clone, Copy, Debug)]
pub struct Random {
    /// The seed; every variable's values depend on it and on the variable's name alone.
    pub seed: u64,
}

impl Source for Random {
    fn check(&self, _: &str, _: &[usize]) -> Result<(), VarsError> {
        Ok(())
    }

    fn has(&self, _: &str) -> bool {
        true
    }

    fn rows(&self, name: &str, rows: Range<usize>, width: usize, init: Init) -> Result<Vec<f32>, VarsError> {
        let count = rows.len() * width;
        Ok(match init {
            Init::Constant(value) => vec![value; count],
            Init::Normal(deviation) => named_normals(self.seed, name, rows.start * width, count, deviation),
        })
    }

    fn native(&self, _: &str) -> WeightType {
        WeightType::F32
    }
}

/// Values `start..start + count` of the stream of normal values that belongs to `seed` and `name`.
pub fn named_normals(seed: u64, name: &str, start: usize, count: usize, deviation: f32) -> Vec<f32> {
    normals(seed ^ hash(name), start, count, deviation)
}

/// FNV-1a.
fn hash(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Values `start..start + count` of a stream of (nearly) normal values: sums of four uniform 16-bit
/// numbers, cheap enough to fill billions of weights.
fn normals(seed: u64, start: usize, count: usize, deviation: f32) -> Vec<f32> {
    // The sum of four uniform values on [0, 65535] has mean 131070 and deviation 65536 / sqrt(3).
    let scale = deviation * 3f32.sqrt() / 65536.0;
    let value = |index: usize| {
        let bits = mix(seed.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
        (sum as f32 - 131_070.0) * scale
    };
    (start..start + count).map(value).collect()
}

/// The finaliser of SplitMix64.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_rows_do_not_depend_on_how_they_are_split() {
        let source = Random { seed: 7 };
        let rows = |range| source.rows("a.weight", range, 5, Init::Normal(0.02)).unwrap_or_default();
        assert_eq!(rows(0..4), [rows(0..1), rows(1..4)].concat());
        assert_ne!(rows(0..1), rows(1..2));
    }

    #[test]
    fn random_values_have_the_wanted_spread() {
        let values = normals(3, 0, 100_000, 0.5);
        let mean = values.iter().sum::<f32>() / 1e5;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 1e5;
        assert!(mean.abs() < 0.01 && (variance.sqrt() - 0.5).abs() < 0.01, "{mean} {variance}");
    }

    #[test]
    fn the_mixture_gives_more_bits_where_llama_cpp_does() {
        let kind = |name| q4_k_m(name, 16);
        assert_eq!(kind("lm_head.weight"), WeightType::Q6K);
        assert_eq!(kind("model.layers.0.mlp.down_proj.weight"), WeightType::Q6K);
        assert_eq!(kind("model.layers.2.mlp.down_proj.weight"), WeightType::Q4K);
        assert_eq!(kind("model.layers.4.self_attn.v_proj.weight"), WeightType::Q6K);
        assert_eq!(kind("model.layers.15.self_attn.q_proj.weight"), WeightType::Q4K);
    }
}
