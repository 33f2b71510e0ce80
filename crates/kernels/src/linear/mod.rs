//! Linear layers whose weights are packed once, at load, in every type that Whit knows.
//!
//! [`PackedLinear`] holds the weights of one layer; [`PackedLinear::forward`] multiplies rows of
//! activations with them, and [`forward_many`] several layers with the same rows. The result of a
//! row is the same, bit for bit, whatever the number of rows in the call: speculative decoding and
//! batching rely on it.
//!
//! Activations of the quantised types are quantised on the way in, to 8 bits with one scale for 32
//! inputs (`int8`: for the row). A row with a number that is not finite gives results that are not.

mod activations;
pub mod bfloat16;
pub mod blocks;
pub mod float32;
mod int8;
mod lanes;
mod multiply;
pub(crate) mod panel;
mod panels;
mod quantized;
mod sparse;
#[cfg(test)]
mod tests;
mod tile;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use burn::tensor::Tensor;
use thiserror::Error;

use crate::activation::Activation;
use crate::matmul::product::Finish;
use crate::op::{self, Host};
use quantized::Quantized;
pub use sparse::Pattern;
use sparse::Sparse;

/// How a layer's weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// 32-bit floats.
    F32,
    /// Brain floats: the upper half of an `f32`.
    Bf16,
    /// 8-bit integers with one scale for each output; any number of inputs to 65536.
    Int8,
    /// GGUF: 4.5 bits a weight, inputs a multiple of 32.
    Q4_0,
    /// GGUF: 8.5 bits a weight, inputs a multiple of 32.
    Q8_0,
    /// GGUF: 4.5 bits a weight, inputs a multiple of 256.
    Q4K,
    /// GGUF: 5.5 bits a weight, inputs a multiple of 256.
    Q5K,
    /// GGUF: 6.5625 bits a weight, inputs a multiple of 256.
    Q6K,
}

impl WeightType {
    /// Every type.
    pub const ALL: [Self; 8] =
        [Self::F32, Self::Bf16, Self::Int8, Self::Q4_0, Self::Q8_0, Self::Q4K, Self::Q5K, Self::Q6K];

    /// Its name, as [`Display`](fmt::Display) writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Q4_0 => "q4_0",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }

    /// The number of which a layer's inputs must be a multiple.
    pub fn multiple(self) -> usize {
        blocks::size(self).map_or(1, |(weights, _)| weights)
    }

    /// This type, or where it cannot hold rows of `inputs` weights the next best that can: `q8_0` for
    /// the K types, and `int8` where not even that fits.
    pub fn fitting(self, inputs: usize) -> Self {
        [self, Self::Q8_0]
            .into_iter()
            .find(|kind| inputs.is_multiple_of(kind.multiple()))
            .unwrap_or(Self::Int8)
    }

    /// The bytes that `weights` weights take in files, and in memory but for the filling of panels.
    pub fn bytes_of(self, weights: u64) -> u64 {
        match (self, blocks::size(self)) {
            (_, Some((length, bytes))) => weights / length as u64 * bytes as u64,
            (Self::F32, None) => weights * 4,
            (Self::Bf16, None) => weights * 2,
            (_, None) => weights,
        }
    }

    fn check_width(self, inputs: usize) -> Result<(), LinearError> {
        let multiple = self.multiple();
        if inputs.is_multiple_of(multiple) && (self != Self::Int8 || inputs <= int8::MOST_INPUTS) {
            return Ok(());
        }
        Err(LinearError::Width { kind: self, inputs, multiple, instead: self.fitting(inputs) })
    }
}

impl fmt::Display for WeightType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for WeightType {
    type Err = LinearError;

    fn from_str(name: &str) -> Result<Self, LinearError> {
        let found = Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| LinearError::Unknown { name: name.to_owned() })
    }
}

/// Why weights could not be packed.
#[derive(Debug, Error, PartialEq)]
pub enum LinearError {
    /// A name that is no weight type.
    #[error("no weight type is called {name:?}; there are f32, bf16, int8, q4_0, q8_0, q4_k, q5_k and q6_k")]
    Unknown {
        /// The name.
        name: String,
    },
    /// Rows that the type cannot hold.
    #[error("{kind} cannot hold rows of {inputs} weights (it takes multiples of {multiple}); use {instead}")]
    Width {
        /// The type.
        kind: WeightType,
        /// Weights in a row.
        inputs: usize,
        /// What they must be a multiple of.
        multiple: usize,
        /// A type that can.
        instead: WeightType,
    },
    /// A type that GGUF files do not store in blocks.
    #[error("{kind} is no block type; the block types are q4_0, q8_0, q4_k, q5_k and q6_k")]
    NotBlocks {
        /// The type.
        kind: WeightType,
    },
    /// The data do not fill the stated shape.
    #[error("the weights take {found} bytes where the shape needs {expected}")]
    Bytes {
        /// What the shape needs.
        expected: usize,
        /// What was given.
        found: usize,
    },
    /// The number of weights given is not that of the shape.
    #[error("{found} weights were given for {outputs} x {inputs}")]
    Shape {
        /// Rows.
        outputs: usize,
        /// Weights in a row.
        inputs: usize,
        /// What was given.
        found: usize,
    },
    /// A type that has no sparse form of this pattern.
    #[error("{kind} has no {pattern} form; 2:4 takes f32, bf16 and int8, bitmaps f32 and bf16")]
    NotSparse {
        /// The type.
        kind: WeightType,
        /// The pattern.
        pattern: Pattern,
    },
    /// Weights that are not 2:4 sparse.
    #[error(
        "{found} of the four weights of output {output} from input {input} on are not zero; 2:4 takes two at most"
    )]
    NotTwoFour {
        /// The row.
        output: usize,
        /// The first of the four inputs.
        input: usize,
        /// How many are not zero.
        found: usize,
    },
    /// More weights than the address space holds.
    #[error("a weight matrix of {outputs} x {inputs} does not fit the address space")]
    TooLarge {
        /// Rows.
        outputs: usize,
        /// Weights in a row.
        inputs: usize,
    },
}

/// Weights that are set in pieces come in multiples of so many rows, the width of every panel.
pub const PIECE: usize = 32;

/// The packed weights of a linear layer, `[outputs, inputs]`.
#[derive(Debug)]
pub struct PackedLinear {
    inputs: usize,
    outputs: usize,
    kind: WeightType,
    weights: Weights,
}

#[derive(Debug)]
enum Weights {
    F32(float32::Packed),
    Bf16(bfloat16::Packed),
    Quantized(Quantized),
    Sparse(Sparse),
}

impl PackedLinear {
    /// Packs `weight` (`[outputs, inputs]`, row-major), quantising it if need be.
    ///
    /// # Errors
    /// [`LinearError::Shape`] if `weight` has another length, [`LinearError::Width`] if `kind` cannot
    /// hold rows of `inputs` weights.
    pub fn pack(
        weight: &[f32],
        outputs: usize,
        inputs: usize,
        kind: WeightType,
    ) -> Result<Self, LinearError> {
        if outputs.checked_mul(inputs) != Some(weight.len()) {
            return Err(LinearError::Shape { outputs, inputs, found: weight.len() });
        }
        let mut packed = Self::zeros(outputs, inputs, kind)?;
        packed.set_rows(0, weight)?;
        Ok(packed)
    }

    /// As [`Self::pack`], keeping only the weights that are not zero.
    ///
    /// # Errors
    /// As [`Self::pack`]; [`LinearError::NotSparse`] if `kind` has no such form, and
    /// [`LinearError::NotTwoFour`] if the weights do not have the pattern.
    pub fn pack_sparse(
        weight: &[f32],
        outputs: usize,
        inputs: usize,
        kind: WeightType,
        pattern: Pattern,
    ) -> Result<Self, LinearError> {
        if outputs.checked_mul(inputs) != Some(weight.len()) {
            return Err(LinearError::Shape { outputs, inputs, found: weight.len() });
        }
        kind.check_width(inputs)?;
        pattern.check(weight, inputs, kind)?;
        let weights = match kind {
            WeightType::Int8 => Weights::Quantized(Quantized::pack_halved(weight, outputs, inputs)?),
            _ => Weights::Sparse(Sparse::pack(weight, outputs, inputs, kind, pattern)?),
        };
        Ok(Self { inputs, outputs, kind, weights })
    }

    /// Packs the bytes of a GGUF tensor of `outputs` rows, one after the other; no precision is lost.
    ///
    /// # Errors
    /// [`LinearError::NotBlocks`] for the types that are not blocks, [`LinearError::Width`] if rows of
    /// `inputs` are not whole blocks, [`LinearError::Bytes`] if `blocks` has another length.
    pub fn from_blocks(
        kind: WeightType,
        blocks: &[u8],
        outputs: usize,
        inputs: usize,
    ) -> Result<Self, LinearError> {
        let row = Self::block_row(kind, inputs)?;
        let expected = row.checked_mul(outputs).ok_or(LinearError::TooLarge { outputs, inputs })?;
        if blocks.len() != expected {
            return Err(LinearError::Bytes { expected, found: blocks.len() });
        }
        let mut packed = Self::zeros(outputs, inputs, kind)?;
        packed.set_blocks(0, blocks)?;
        Ok(packed)
    }

    /// All weights zero, to be filled in pieces of whole rows, so that the unpacked weights need never be
    /// in memory all at once.
    ///
    /// # Errors
    /// [`LinearError::Width`] if `kind` cannot hold rows of `inputs` weights, [`LinearError::TooLarge`].
    pub fn zeros(outputs: usize, inputs: usize, kind: WeightType) -> Result<Self, LinearError> {
        kind.check_width(inputs)?;
        let fits = outputs.checked_next_multiple_of(PIECE).and_then(|rows| rows.checked_mul(inputs * 4));
        fits.ok_or(LinearError::TooLarge { outputs, inputs })?;
        let weights = match kind {
            WeightType::F32 => Weights::F32(float32::Packed::zeros(outputs, inputs)),
            WeightType::Bf16 => Weights::Bf16(bfloat16::Packed::zeros(outputs, inputs)),
            _ => Weights::Quantized(Quantized::zeros(outputs, inputs, kind)?),
        };
        Ok(Self { inputs, outputs, kind, weights })
    }

    /// Packs whole rows of weights from row `first` on, quantising them if need be. Pieces begin at a
    /// multiple of [`PIECE`], and all but the last are one; each row is set once.
    ///
    /// # Errors
    /// [`LinearError::Shape`] if `weight` is not whole rows.
    ///
    /// # Panics
    /// If the piece lies elsewhere: a caller's bug.
    pub fn set_rows(&mut self, first: usize, weight: &[f32]) -> Result<(), LinearError> {
        let rows = self.piece(first, weight.len(), self.inputs);
        let (inputs, outputs) = (self.inputs, self.outputs);
        let rows = rows.ok_or(LinearError::Shape { outputs, inputs, found: weight.len() })?;
        match &mut self.weights {
            Weights::F32(weights) => weights.set_rows(first, weight),
            Weights::Bf16(weights) => weights.set_rows(first, weight),
            Weights::Quantized(weights) => weights.set_rows(rows, weight),
            Weights::Sparse(_) => unreachable!("sparse weights are packed at once"),
        }
        Ok(())
    }

    /// Packs the bytes of whole rows of a GGUF tensor from row `first` on; as [`Self::set_rows`].
    ///
    /// # Errors
    /// [`LinearError::NotBlocks`] for the types that are not blocks, [`LinearError::Bytes`] if `blocks`
    /// are not whole rows.
    ///
    /// # Panics
    /// If the piece lies elsewhere: a caller's bug.
    pub fn set_blocks(&mut self, first: usize, blocks: &[u8]) -> Result<(), LinearError> {
        let row = Self::block_row(self.kind, self.inputs)?;
        let rows = self.piece(first, blocks.len(), row);
        let expected = row * self.outputs;
        let rows = rows.ok_or(LinearError::Bytes { expected, found: blocks.len() })?;
        match &mut self.weights {
            Weights::Quantized(weights) => weights.set_blocks(rows, blocks),
            _ => return Err(LinearError::NotBlocks { kind: self.kind }),
        }
        Ok(())
    }

    /// The bytes of a row of blocks.
    fn block_row(kind: WeightType, inputs: usize) -> Result<usize, LinearError> {
        let (weights, bytes) = blocks::size(kind).ok_or(LinearError::NotBlocks { kind })?;
        kind.check_width(inputs)?;
        let row = (inputs / weights).checked_mul(bytes);
        row.ok_or(LinearError::TooLarge { outputs: 1, inputs })
    }

    /// The rows of a piece of `length` items, of which a row has `row`; none if they are not whole rows.
    fn piece(&self, first: usize, length: usize, row: usize) -> Option<Range<usize>> {
        if !length.is_multiple_of(row.max(1)) {
            return None;
        }
        let rows = first..first + length / row.max(1);
        let whole = rows.len().is_multiple_of(PIECE) || rows.end == self.outputs;
        assert!(
            first.is_multiple_of(PIECE) && whole && rows.end <= self.outputs,
            "rows {rows:?} of {} are no piece",
            self.outputs
        );
        Some(rows)
    }

    /// The width of a row of activations.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The width of a row of results.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// How the weights are stored.
    pub fn kind(&self) -> WeightType {
        self.kind
    }

    /// Which weights were left out, if any could be.
    pub fn pattern(&self) -> Option<Pattern> {
        match &self.weights {
            Weights::Sparse(weights) => Some(weights.pattern()),
            Weights::Quantized(weights) => weights.halved.then_some(Pattern::TwoFour),
            Weights::F32(_) | Weights::Bf16(_) => None,
        }
    }

    /// The memory that the weights take, in bytes.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Sparse(weights) => weights.bytes(),
            Weights::F32(weights) => weights.bytes(),
            Weights::Bf16(weights) => weights.bytes(),
            Weights::Quantized(weights) => weights.bytes(),
        }
    }

    /// `x` (`[rows, inputs]`) times the transposed weights, plus `bias`, into `out` (`[rows, outputs]`).
    ///
    /// # Panics
    /// If a slice has another length than the shapes say: a caller's bug.
    pub fn forward(&self, x: &[f32], rows: usize, bias: Option<&[f32]>, out: &mut [f32]) {
        self.activated(x, rows, (bias, None), out);
    }

    /// As [`Self::forward`], with an activation function applied to the results while they are in the cache.
    ///
    /// # Panics
    /// As [`Self::forward`].
    pub fn activated(
        &self,
        x: &[f32],
        rows: usize,
        (bias, activation): (Option<&[f32]>, Option<Activation>),
        out: &mut [f32],
    ) {
        assert_eq!(x.len(), rows * self.inputs, "activations of {rows} rows of {}", self.inputs);
        assert_eq!(out.len(), rows * self.outputs, "results of {rows} rows of {}", self.outputs);
        assert!(bias.is_none_or(|bias| bias.len() == self.outputs), "a bias for {} outputs", self.outputs);
        match &self.weights {
            Weights::F32(weights) => weights.finished(x, rows, Finish { bias, activation }, out),
            Weights::Bf16(weights) => weights.finished(x, rows, Finish { bias, activation }, out),
            Weights::Quantized(weights) => {
                multiply::one(weights, x, rows, bias, out);
                activation.into_iter().for_each(|activation| activation.in_place(out));
            }
            Weights::Sparse(weights) => {
                weights.forward(x, rows, out);
                let finish = Finish { bias, activation };
                out.chunks_exact_mut(self.outputs.max(1)).for_each(|row| finish.apply(0..self.outputs, row));
            }
        }
    }

    /// The weights of output `index` as floats: the look-up of an embedding that shares them.
    ///
    /// # Panics
    /// If `index` is no output or `out` is not `inputs` long: a caller's bug.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        assert!(index < self.outputs, "row {index} of {}", self.outputs);
        assert_eq!(out.len(), self.inputs, "a row of {}", self.inputs);
        match &self.weights {
            Weights::F32(weights) => weights.row(index, out),
            Weights::Bf16(weights) => weights.row(index, out),
            Weights::Quantized(weights) => weights.row(index, out),
            Weights::Sparse(weights) => weights.row(index, out),
        }
    }

    /// All the weights as floats, `[outputs, inputs]`.
    pub fn unpack(&self) -> Vec<f32> {
        let mut all = vec![0.0; self.outputs * self.inputs];
        crate::parallel::pieces(&mut all, self.inputs.max(1), |index, row| self.row(index, row));
        all
    }
}

/// Multiplies the same `x` (`[rows, inputs]`) with several layers (query, key and value; gate and
/// up): as [`PackedLinear::forward`] for each, with the activations quantised once.
///
/// # Panics
/// If a slice has another length than the shapes say, or there are not as many `outs` as layers.
pub fn forward_many(
    layers: &[(&PackedLinear, Option<&[f32]>)],
    x: &[f32],
    rows: usize,
    outs: &mut [&mut [f32]],
) {
    assert_eq!(layers.len(), outs.len(), "one result for each layer");
    let mut jobs = Vec::with_capacity(layers.len());
    for ((layer, bias), out) in layers.iter().zip(outs) {
        match &layer.weights {
            Weights::Quantized(weights) => {
                assert_eq!(x.len(), rows * layer.inputs, "activations of {rows} rows of {}", layer.inputs);
                assert_eq!(out.len(), rows * layer.outputs, "results of {rows} rows of {}", layer.outputs);
                assert!(
                    bias.is_none_or(|bias| bias.len() == layer.outputs),
                    "a bias for {} outputs",
                    layer.outputs
                );
                jobs.push((weights, *bias, &mut **out));
            }
            _ => layer.forward(x, rows, *bias, out),
        }
    }
    multiply::many(&mut jobs, x, rows);
}

/// [`forward_many`] on a tensor: for inference, no gradient reaches `x`.
///
/// # Panics
/// If the width of `x` is not the inputs of every layer: a caller's bug.
pub fn linear_many(x: Tensor<2>, layers: &[(&PackedLinear, Option<Tensor<1>>)]) -> Vec<Tensor<2>> {
    let device = x.device();
    let x = op::host(x);
    let rows = x.dim(0);
    let biases: Vec<Option<Host>> = layers.iter().map(|(_, bias)| bias.clone().map(op::host)).collect();
    let with_biases: Vec<(&PackedLinear, Option<&[f32]>)> = layers
        .iter()
        .zip(&biases)
        .map(|((layer, _), bias)| (*layer, bias.as_ref().map(Host::data)))
        .collect();
    let mut outs: Vec<Vec<f32>> = layers.iter().map(|(layer, _)| vec![0.0; rows * layer.outputs()]).collect();
    let mut slices: Vec<&mut [f32]> = outs.iter_mut().map(Vec::as_mut_slice).collect();
    forward_many(&with_biases, x.data(), rows, &mut slices);
    let tensor = |((layer, _), out): (&(&PackedLinear, Option<Tensor<1>>), _)| {
        op::tensor::<2>(Host::new([rows, layer.outputs()], out)).to_device(&device)
    };
    layers.iter().zip(outs).map(tensor).collect()
}

/// [`PackedLinear::forward`] on a tensor whose last dimension is the inputs. For inference: no
/// gradient reaches `x`.
///
/// # Panics
/// If the last dimension of `x` is not `weight.inputs()`, or `bias` has another length than the outputs.
pub fn linear<const D: usize>(x: Tensor<D>, weight: &PackedLinear, bias: Option<Tensor<1>>) -> Tensor<D> {
    linear_activated(x, weight, bias, None)
}

/// As [`linear`], with an activation function behind it.
///
/// # Panics
/// As [`linear`].
pub fn linear_activated<const D: usize>(
    x: Tensor<D>,
    weight: &PackedLinear,
    bias: Option<Tensor<1>>,
    activation: Option<Activation>,
) -> Tensor<D> {
    let device = x.device();
    let x = op::host(x);
    let bias = bias.map(op::host);
    let mut shape = x.shape();
    let rows = x.data().len() / weight.inputs().max(1);
    if let Some(last) = shape.last_mut() {
        *last = weight.outputs();
    }
    let mut out = vec![0.0; rows * weight.outputs()];
    weight.activated(x.data(), rows, (bias.as_ref().map(Host::data), activation), &mut out);
    op::tensor::<D>(Host::new(shape, out)).to_device(&device)
}
