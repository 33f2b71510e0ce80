//! A checkpoint as a source of variables.

use std::ops::Range;
use std::sync::Arc;

use whit_kernels::linear::WeightType;

use crate::load::{Checkpoint, Dtype};
use crate::nn::vars::{Init, Source, VarsError};

/// The tensors of a checkpoint, under their own names.
#[derive(Clone, Copy)]
pub struct Stored<'a>(pub &'a dyn Checkpoint);

impl Source for Stored<'_> {
    fn check(&self, name: &str, shape: &[usize]) -> Result<(), VarsError> {
        let Some(info) = self.0.info(name) else { return Err(VarsError::Missing(name.to_owned())) };
        if info.shape == shape {
            return Ok(());
        }
        Err(VarsError::Shape { name: name.to_owned(), found: info.shape, wanted: shape.to_vec() })
    }

    fn has(&self, name: &str) -> bool {
        self.0.info(name).is_some()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.info(name).map(|info| info.shape)
    }

    fn rows(&self, name: &str, rows: Range<usize>, _: usize, _: Init) -> Result<Vec<f32>, VarsError> {
        Ok(self.0.read_rows(name, rows)?.to_f32(name)?)
    }

    fn block_type(&self, name: &str) -> Option<WeightType> {
        block_type(self.0.info(name)?.dtype)
    }

    fn blocks(&self, name: &str, rows: Range<usize>) -> Result<Vec<u8>, VarsError> {
        Ok(self.0.read_rows(name, rows)?.bytes)
    }

    fn native(&self, name: &str) -> WeightType {
        match self.0.info(name).map(|info| info.dtype) {
            Some(Dtype::Bf16) => WeightType::Bf16,
            Some(dtype) => block_type(dtype).unwrap_or(WeightType::F32),
            None => WeightType::F32,
        }
    }
}

/// Like [`Stored`], with a share in the checkpoint.
#[derive(Clone, Debug)]
pub struct Shared(pub Arc<dyn Checkpoint>);

impl Source for Shared {
    fn check(&self, name: &str, shape: &[usize]) -> Result<(), VarsError> {
        Stored(self.0.as_ref()).check(name, shape)
    }

    fn has(&self, name: &str) -> bool {
        Stored(self.0.as_ref()).has(name)
    }

    fn rows(&self, name: &str, rows: Range<usize>, width: usize, init: Init) -> Result<Vec<f32>, VarsError> {
        Stored(self.0.as_ref()).rows(name, rows, width, init)
    }

    fn block_type(&self, name: &str) -> Option<WeightType> {
        Stored(self.0.as_ref()).block_type(name)
    }

    fn blocks(&self, name: &str, rows: Range<usize>) -> Result<Vec<u8>, VarsError> {
        Stored(self.0.as_ref()).blocks(name, rows)
    }

    fn native(&self, name: &str) -> WeightType {
        Stored(self.0.as_ref()).native(name)
    }
}

/// The weight type of the kernels that holds the blocks of `dtype` as they are.
fn block_type(dtype: Dtype) -> Option<WeightType> {
    match dtype {
        Dtype::Q4_0 => Some(WeightType::Q4_0),
        Dtype::Q8_0 => Some(WeightType::Q8_0),
        Dtype::Q4K => Some(WeightType::Q4K),
        Dtype::Q5K => Some(WeightType::Q5K),
        Dtype::Q6K => Some(WeightType::Q6K),
        _ => None,
    }
}

/// The tensors of a checkpoint of a model without its head, which are not below `model.`.
pub(super) struct Bare<'a>(pub(super) Stored<'a>);

impl Bare<'_> {
    /// Whether `stored` is such a checkpoint.
    pub(super) fn suits(stored: &Stored<'_>) -> bool {
        stored.has("embed_tokens.weight") && !stored.has("model.embed_tokens.weight")
    }

    fn place<'n>(&self, name: &'n str) -> &'n str {
        name.strip_prefix("model.").unwrap_or(name)
    }
}

impl Source for Bare<'_> {
    fn check(&self, name: &str, shape: &[usize]) -> Result<(), VarsError> {
        self.0.check(self.place(name), shape)
    }

    fn has(&self, name: &str) -> bool {
        self.0.has(self.place(name))
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.shape(self.place(name))
    }

    fn rows(&self, name: &str, rows: Range<usize>, width: usize, init: Init) -> Result<Vec<f32>, VarsError> {
        self.0.rows(self.place(name), rows, width, init)
    }

    fn block_type(&self, name: &str) -> Option<WeightType> {
        self.0.block_type(self.place(name))
    }

    fn blocks(&self, name: &str, rows: Range<usize>) -> Result<Vec<u8>, VarsError> {
        self.0.blocks(self.place(name), rows)
    }

    fn native(&self, name: &str) -> WeightType {
        self.0.native(self.place(name))
    }
}
