//! Packed weights of 8 bits and fewer.

use std::ops::Range;

use super::blocks::{self, Q4_0, Q4K, Q5K, Q6K, Q8_0, with_format};
use super::multiply::Enter;
use super::panels::{self, Layout, Panels};
use super::sparse::two_four;
use super::tile::{Blocks, Rows};
use super::{LinearError, WeightType, int8, lanes};

fn zeros_of<F: Layout>(outputs: usize, inputs: usize) -> Result<Panels, LinearError> {
    panels::zeros::<F>(outputs, inputs)
}

/// Weights in panels.
#[derive(Debug)]
pub(super) struct Quantized {
    pub kind: WeightType,
    pub panels: Panels,
    pub outputs: usize,
    pub inputs: usize,
    /// Whether they are `int8` with two kept of every four.
    pub halved: bool,
}

impl Quantized {
    /// Room for rows; the caller has checked the sizes.
    pub fn zeros(outputs: usize, inputs: usize, kind: WeightType) -> Result<Self, LinearError> {
        let panels = with_format!(kind, zeros_of(outputs, inputs), else int8::zeros(outputs, inputs))?;
        Ok(Self { kind, panels, outputs, inputs, halved: false })
    }

    /// Quantises and packs `int8` weights of which two in four are kept; the caller has checked that.
    pub fn pack_halved(weight: &[f32], outputs: usize, inputs: usize) -> Result<Self, LinearError> {
        let panels = two_four::pack_levels(weight, outputs, inputs)?;
        Ok(Self { kind: WeightType::Int8, panels, outputs, inputs, halved: true })
    }

    /// Quantises and packs some rows; the caller has checked the sizes.
    pub fn set_rows(&mut self, rows: Range<usize>, weight: &[f32]) {
        fn set<F: Layout>(panels: &mut Panels, rows: Range<usize>, weight: &[f32], inputs: usize) {
            panels::pack::<F>(panels, rows, |row, block| {
                blocks::nearest::<F>(&weight[row * inputs + block * F::LENGTH..][..F::LENGTH])
            });
        }
        let (panels, inputs) = (&mut self.panels, self.inputs);
        with_format!(self.kind, set(panels, rows, weight, inputs), else int8::pack(panels, rows, weight, inputs));
    }

    /// Packs the blocks of some rows of a file; the caller has checked the sizes.
    pub fn set_blocks(&mut self, rows: Range<usize>, bytes: &[u8]) {
        fn set<F: Layout>(panels: &mut Panels, rows: Range<usize>, bytes: &[u8], inputs: usize) {
            panels::pack::<F>(panels, rows, |row, block| {
                F::decode(&bytes[(row * (inputs / F::LENGTH) + block) * F::BYTES..][..F::BYTES])
            });
        }
        with_format!(self.kind, set(&mut self.panels, rows, bytes, self.inputs), else unreachable!("int8 is no block type"));
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
        if self.halved {
            return two_four::row_of_levels(&self.panels, index, out);
        }
        with_format!(self.kind, row(&self.panels, index, out), else int8::row(&self.panels, index, out));
    }

    /// The multiplication of this type.
    pub fn body(&self) -> Enter {
        fn body<F: Layout>() -> Enter {
            lanes::enter::<Blocks<F>>
        }
        if self.halved {
            return lanes::enter::<two_four::Levels>;
        }
        with_format!(self.kind, body(), else lanes::enter::<Rows>)
    }
}
