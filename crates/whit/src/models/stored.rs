//! A checkpoint as a source of variables.

use std::ops::Range;

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

    fn rows(&self, name: &str, rows: Range<usize>, _: usize, _: Init) -> Result<Vec<f32>, VarsError> {
        Ok(self.0.read_rows(name, rows)?.to_f32(name)?)
    }

    fn blocks(&self, name: &str) -> Result<Option<(WeightType, Vec<u8>)>, VarsError> {
        let kind = self.0.info(name).map(|info| self.block_type(info.dtype));
        match kind.flatten() {
            Some(kind) => Ok(Some((kind, self.0.read(name)?.bytes))),
            None => Ok(None),
        }
    }

    fn native(&self, name: &str) -> WeightType {
        match self.0.info(name).map(|info| info.dtype) {
            Some(Dtype::Bf16) => WeightType::Bf16,
            Some(dtype) => self.block_type(dtype).unwrap_or(WeightType::F32),
            None => WeightType::F32,
        }
    }
}

impl Stored<'_> {
    fn block_type(&self, dtype: Dtype) -> Option<WeightType> {
        match dtype {
            Dtype::Q4_0 => Some(WeightType::Q4_0),
            Dtype::Q8_0 => Some(WeightType::Q8_0),
            Dtype::Q4K => Some(WeightType::Q4K),
            Dtype::Q5K => Some(WeightType::Q5K),
            Dtype::Q6K => Some(WeightType::Q6K),
            _ => None,
        }
    }
}
