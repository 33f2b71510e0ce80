//! Packed weights of 8 bits and fewer.

use super::blocks::{self, Q4_0, Q4K, Q5K, Q6K, Q8_0, with_format};
use super::multiply::Enter;
use super::panels::{self, Layout, Panels};
use super::tile::{Blocks, Rows};
use super::{LinearError, WeightType, int8, lanes};

/// Weights in panels.
#[derive(Debug)]
pub(super) struct Quantized {
    pub kind: WeightType,
    pub panels: Panels,
    pub outputs: usize,
    pub inputs: usize,
}

impl Quantized {
    /// Quantises and packs; the caller has checked the sizes.
    pub fn pack(
        weight: &[f32],
        outputs: usize,
        inputs: usize,
        kind: WeightType,
    ) -> Result<Self, LinearError> {
        fn all<F: Layout>(weight: &[f32], outputs: usize, inputs: usize) -> Result<Panels, LinearError> {
            panels::pack::<F>(outputs, inputs, |output, block| {
                blocks::nearest::<F>(&weight[output * inputs + block * F::LENGTH..][..F::LENGTH])
            })
        }
        let panels =
            with_format!(kind, all(weight, outputs, inputs), else int8::pack(weight, outputs, inputs))?;
        Ok(Self { kind, panels, outputs, inputs })
    }

    /// Packs the blocks of a file; the caller has checked the sizes.
    pub fn from_blocks(
        kind: WeightType,
        bytes: &[u8],
        outputs: usize,
        inputs: usize,
    ) -> Result<Self, LinearError> {
        fn pack<F: Layout>(bytes: &[u8], outputs: usize, inputs: usize) -> Result<Panels, LinearError> {
            panels::pack::<F>(outputs, inputs, |output, block| {
                F::decode(&bytes[(output * (inputs / F::LENGTH) + block) * F::BYTES..][..F::BYTES])
            })
        }
        let panels =
            with_format!(kind, pack(bytes, outputs, inputs), else Err(LinearError::NotBlocks { kind }))?;
        Ok(Self { kind, panels, outputs, inputs })
    }

    /// The memory that the panels take.
    pub fn bytes(&self) -> usize {
        self.panels.bytes().len()
    }

    /// The weights of output `index`.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        fn row<F: Layout>(panels: &Panels, index: usize, out: &mut [f32]) {
            for (block, out) in out.chunks_exact_mut(F::LENGTH).enumerate() {
                F::values(&panels::block::<F>(panels, index, block), out);
            }
        }
        with_format!(self.kind, row(&self.panels, index, out), else int8::row(&self.panels, index, out));
    }

    /// The multiplication of this type.
    pub fn body(&self) -> Enter {
        fn body<F: Layout>() -> Enter {
            lanes::enter::<Blocks<F>>
        }
        with_format!(self.kind, body(), else lanes::enter::<Rows>)
    }
}
