//! One forward pass under the peer's own names: what `whit forward` does and what parity is measured on.
//!
//! Inputs are named as the arguments of transformers' models and mean the same: `attention_mask` is 0 where a key is
//! padding, positions count from 0 in every row (padding included) unless `position_ids` says otherwise. Outputs are
//! named as its output fields; the tuple `hidden_states` becomes `hidden_states.0`, `hidden_states.1`, ... of which
//! the first enters the first layer and the last is `last_hidden_state`.

use burn::tensor::{Tensor, TensorData};
use thiserror::Error;
use whit_kernels::op;

use crate::load::{Checkpoint, Dtype, LoadError, RawTensor};
use crate::methods::MethodError;
use crate::nn::attention::{Attend, Batched, Site};
use crate::nn::decoder::{Decoder, Positions, Tokens};
use crate::nn::tempered::Biased;

/// The inputs that a language model takes.
const KNOWN: [&str; 3] = ["input_ids", "attention_mask", "position_ids"];

/// Why a forward pass was refused.
#[derive(Debug, Error)]
pub enum ForwardError {
    /// The file has an input that no model here takes.
    #[error("unknown input `{name}`; this model takes {known}")]
    UnknownInput {
        /// Its name.
        name: String,
        /// What the model takes.
        known: String,
    },
    /// There are no tokens.
    #[error("input `input_ids` is missing: the tokens, integers of shape [batch, length]")]
    NoTokens,
    /// There are no images.
    #[error("input `pixel_values` is missing: the images, numbers of shape [batch, channels, height, width]")]
    NoPixels,
    /// An input has a shape that does not fit.
    #[error("input `{name}` has shape {found:?}; wanted {wanted}")]
    Shape {
        /// The input.
        name: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// What would be right.
        wanted: String,
    },
    /// An input holds something other than numbers that can be read exactly.
    #[error("input `{name}` holds {dtype} values; wanted {wanted}")]
    Type {
        /// The input.
        name: &'static str,
        /// Its type in the file.
        dtype: Dtype,
        /// What would be right.
        wanted: &'static str,
    },
    /// A value that the model has no row for.
    #[error("input `{name}` is {value} at row {row}, column {column}; it must lie between 0 and {largest}")]
    Value {
        /// The input.
        name: &'static str,
        /// The value.
        value: i64,
        /// Where it is.
        row: usize,
        /// Where it is.
        column: usize,
        /// The largest value that the model takes.
        largest: u32,
    },
    /// A method that cannot run here, or failed.
    #[error(transparent)]
    Method(#[from] MethodError),
    /// The file could not be read.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// The inputs of one pass over `batch` rows of `length` tokens, all of them row after row.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    batch: usize,
    length: usize,
    ids: Vec<u32>,
    positions: Vec<u32>,
    /// What attention may see besides the causal rule: `[batch, 1, length, length]`; all where none.
    mask: Option<TensorData>,
}

/// Named tensors in the order of the peer's output.
pub type Outputs = Vec<(String, RawTensor)>;

impl Inputs {
    /// Reads and checks the inputs for `model`.
    ///
    /// # Errors
    /// If an input is unknown, missing, misshapen, of a wrong type, or has a value that the model has no row for.
    pub fn read(file: &dyn Checkpoint, model: &Decoder) -> Result<Self, ForwardError> {
        let table = Table::new(file, &KNOWN)?;
        let [batch, length] = [table.batch, table.length];
        let config = model.config();
        let largest = config.vocab_size as u32 - 1;
        let ids = table.indices("input_ids", largest)?.ok_or(ForwardError::NoTokens)?;
        let largest = match config.positions {
            Positions::Learned => config.max_positions as u32 - 1,
            Positions::Rotary(_) => i32::MAX as u32,
        };
        let positions = match table.indices("position_ids", largest)? {
            Some(positions) => positions,
            None => {
                table.fits(largest as usize + 1)?;
                (0..batch).flat_map(|_| 0..length as u32).collect()
            }
        };
        Ok(Self { batch, length, ids, positions, mask: table.mask()? })
    }
}

/// `[batch, length]` of the tokens.
pub(super) fn shape(file: &dyn Checkpoint) -> Result<[usize; 2], ForwardError> {
    let found = file.info("input_ids").ok_or(ForwardError::NoTokens)?.shape;
    match found[..] {
        [batch, length] if batch > 0 && length > 0 => Ok([batch, length]),
        _ => Err(ForwardError::Shape {
            name: "input_ids",
            found,
            wanted: "[batch, length], neither of them 0".into(),
        }),
    }
}

/// The input file, whose tensors are all `[batch, length]`.
pub(super) struct Table<'a> {
    file: &'a dyn Checkpoint,
    batch: usize,
    length: usize,
}

impl<'a> Table<'a> {
    /// The inputs in `file`, all of which must be among `known`.
    pub(super) fn new(file: &'a dyn Checkpoint, known: &[&str]) -> Result<Self, ForwardError> {
        if let Some(name) = file.names().into_iter().find(|name| !known.contains(&name.as_str())) {
            return Err(ForwardError::UnknownInput { name, known: known.join(", ") });
        }
        let [batch, length] = shape(file)?;
        Ok(Self { file, batch, length })
    }

    /// What attention may see by `attention_mask`: `[batch, 1, length, length]`, where anything is hidden.
    pub(super) fn mask(&self) -> Result<Option<TensorData>, ForwardError> {
        let Some(mask) = self.integers("attention_mask")? else { return Ok(None) };
        if !mask.contains(&0) {
            return Ok(None);
        }
        let rows = mask.chunks_exact(self.length).flat_map(|row| std::iter::repeat_n(row, self.length));
        let values: Vec<bool> = rows.flatten().map(|&value| value != 0).collect();
        Ok(Some(TensorData::new(values, [self.batch, 1, self.length, self.length])))
    }

    /// An input of whole numbers; a single row stands for all. `None` where the file lacks it.
    fn integers(&self, name: &'static str) -> Result<Option<Vec<i64>>, ForwardError> {
        let Some(info) = self.file.info(name) else { return Ok(None) };
        let copies = match info.shape[..] {
            [batch, length] if batch == self.batch && length == self.length => 1,
            [1, length] if length == self.length => self.batch,
            _ => {
                let wanted = format!("{:?} as input_ids has", [self.batch, self.length]);
                return Err(ForwardError::Shape { name, found: info.shape, wanted });
            }
        };
        let values = integers(&self.file.read(name)?, name)?;
        Ok(Some(values.repeat(copies)))
    }

    /// An input of indices into a table whose last row is `largest`.
    pub(super) fn indices(&self, name: &'static str, largest: u32) -> Result<Option<Vec<u32>>, ForwardError> {
        let Some(values) = self.integers(name)? else { return Ok(None) };
        let checked = values.iter().enumerate().map(|(at, &value)| match u32::try_from(value) {
            Ok(index) if index <= largest => Ok(index),
            _ => {
                let (row, column) = (at / self.length, at % self.length);
                Err(ForwardError::Value { name, value, row, column, largest })
            }
        });
        checked.collect::<Result<_, _>>().map(Some)
    }

    /// `[batch, length]` of the tokens.
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.batch, self.length]
    }

    /// Checks that the rows have at most `most` tokens.
    pub(super) fn fits(&self, most: usize) -> Result<(), ForwardError> {
        if self.length <= most {
            return Ok(());
        }
        let found = vec![self.batch, self.length];
        let wanted = format!("rows of at most {most} tokens, as the model has positions");
        Err(ForwardError::Shape { name: "input_ids", found, wanted })
    }
}

fn integers(tensor: &RawTensor, name: &'static str) -> Result<Vec<i64>, ForwardError> {
    let bytes = &tensor.bytes;
    macro_rules! read {
        ($kind:ty) => {
            bytes.as_chunks().0.iter().map(|&value| <$kind>::from_le_bytes(value).into()).collect()
        };
    }
    Ok(match tensor.dtype {
        Dtype::Bool | Dtype::U8 => read!(u8),
        Dtype::I8 => read!(i8),
        Dtype::I16 => read!(i16),
        Dtype::I32 => read!(i32),
        Dtype::U32 => read!(u32),
        Dtype::I64 => read!(i64),
        Dtype::F32 if name == "attention_mask" => {
            bytes.as_chunks().0.iter().map(|&value| i64::from(f32::from_le_bytes(value) != 0.0)).collect()
        }
        dtype => return Err(ForwardError::Type { name, dtype, wanted: "integers, such as I64" }),
    })
}

/// Runs the model once; `head` says whether it has one, and so logits.
pub fn forward(model: &Decoder, head: bool, inputs: &Inputs) -> Outputs {
    let reached = inputs.positions.iter().max().map_or(0, |last| last + 1);
    let lengths = vec![reached; inputs.ids.len()];
    let tokens = Tokens { ids: &inputs.ids, positions: &inputs.positions, lengths: &lengths };
    let mut recorder = Recorder::new(Batched::causal(inputs.batch), inputs.mask.clone());
    let last = model.forward(tokens, &mut recorder);
    let mut states = recorder.states;
    states.pop(); // what leaves the last layer; the peer reports it normalised
    states.push(last.clone());

    let named = |name: String, tensor: Tensor<2>| named(name, [inputs.batch, inputs.length], tensor);
    let mut outputs = Vec::with_capacity(states.len() + 2);
    if head {
        outputs.push(named("logits".into(), model.logits(last.clone())));
    }
    outputs.push(named("last_hidden_state".into(), last));
    outputs.extend(
        states.into_iter().enumerate().map(|(layer, state)| named(format!("hidden_states.{layer}"), state)),
    );
    outputs
}

/// An output `[batch, length, width]`.
pub(super) fn named(name: String, [batch, length]: [usize; 2], tensor: Tensor<2>) -> (String, RawTensor) {
    let values = op::host(tensor);
    (name, RawTensor::from_f32(vec![batch, length, values.width()], values.data()))
}

/// Attention with the padding's mask, keeping what enters every layer.
pub(super) struct Recorder {
    inner: Batched,
    /// The mask until the first layer shows the device where it belongs.
    mask: Option<TensorData>,
    pub(super) states: Vec<Tensor<2>>,
}

impl Recorder {
    pub(super) fn new(inner: Batched, mask: Option<TensorData>) -> Self {
        Self { inner, mask, states: Vec::new() }
    }
}

impl Biased for Recorder {
    fn bias(&mut self) -> &mut Option<Tensor<3>> {
        &mut self.inner.bias
    }
}

impl Attend for Recorder {
    fn attend(&mut self, site: &Site, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<2> {
        if let Some(mask) = self.mask.take() {
            self.inner.mask = Some(Tensor::from_data(mask, &queries.device()));
        }
        self.inner.attend(site, queries, keys, values)
    }

    fn observe(&mut self, _: usize, hidden: &mut dyn FnMut() -> Tensor<2>) {
        self.states.push(hidden());
    }
}
