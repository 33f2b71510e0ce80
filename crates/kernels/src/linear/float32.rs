//! Linear layers with `f32` weights.

use crate::matmul::pack::{Matrix, Words};
use crate::matmul::product::{Finish, Operand, Product, Start, pack_right, right_words};
use crate::matmul::tile::{COLUMNS, Format, Tiles};
use crate::simd;

/// The weights of a linear layer, `[outputs, inputs]`, packed once into panels of 32 outputs.
///
/// The result of a row has the same bits whatever the number of rows in the call.
#[derive(Clone, Debug)]
pub struct Packed {
    panels: Words,
    outputs: usize,
    inputs: usize,
}

impl Packed {
    /// Packs `weight`, row-major `[outputs, inputs]`.
    ///
    /// # Panics
    /// If `weight` does not have `outputs * inputs` values.
    pub fn pack(weight: &[f32], outputs: usize, inputs: usize) -> Self {
        assert_eq!(weight.len(), outputs * inputs, "the weight is not {outputs} by {inputs}");
        let mut packed = Self::zeros(outputs, inputs);
        packed.set_rows(0, weight);
        packed
    }

    /// Room for weights that come in pieces.
    pub(super) fn zeros(outputs: usize, inputs: usize) -> Self {
        Self { panels: Words::zeros(right_words(outputs, inputs)), outputs, inputs }
    }

    /// Packs rows from `first` on, a multiple of the panels' width.
    pub(super) fn set_rows(&mut self, first: usize, weight: &[f32]) {
        let (rows, depth) = (weight.len() / self.inputs.max(1), self.inputs);
        let source = Matrix {
            data: weight,
            depth: self.inputs,
            line_stride: self.inputs,
            depth_stride: 1,
            format: Format::F32,
        };
        let panels = first * depth..first * depth + right_words(rows, depth);
        pack_right(&source, rows, depth, &mut self.panels[panels]);
    }

    /// The size of a row of `x`.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The size of a row of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The memory that the weights take.
    pub fn bytes(&self) -> usize {
        self.panels.bytes()
    }

    /// `out = x . weight^T`, with `x` `[rows, inputs]` and `out` `[rows, outputs]`.
    ///
    /// # Panics
    /// If a slice does not have the size that `rows` says.
    pub fn forward(&self, x: &[f32], rows: usize, out: &mut [f32]) {
        self.finished(x, rows, Finish::default(), out);
    }

    /// [`Self::forward`] with what is done to the results at once.
    pub(super) fn finished(&self, x: &[f32], rows: usize, finish: Finish<'_>, out: &mut [f32]) {
        self.run(Tiles::new(Format::F32, simd::features()), x, rows, finish, out);
    }

    fn run(&self, tiles: Tiles, x: &[f32], rows: usize, finish: Finish<'_>, out: &mut [f32]) {
        let (columns, depth) = (self.outputs, self.inputs);
        assert_eq!(x.len(), rows * depth, "x is not {rows} rows of {depth}");
        let left = Matrix { data: x, depth, line_stride: depth, depth_stride: 1, format: Format::F32 };
        let (left, right) = (Operand::Source(&left), Operand::Packed(&self.panels));
        Product { tiles, rows, columns, depth, left, right, start: Start::Zero, finish }.run(out);
    }

    /// The words of 32 outputs, depth-major: what a [tile](crate::matmul::tile::Tile) takes on its right.
    pub(super) fn panel(&self, index: usize) -> &[u32] {
        let size = COLUMNS * self.inputs;
        &self.panels[index * size..][..size]
    }

    /// Writes the weights of output `index` to `out`, `[inputs]`: the embedding of a token where the
    /// weights are tied.
    ///
    /// # Panics
    /// If `index` is not below [`Self::outputs`].
    pub fn row(&self, index: usize, out: &mut [f32]) {
        assert!(index < self.outputs, "row {index} of {}", self.outputs);
        let panel = &self.panels[index / COLUMNS * COLUMNS * self.inputs..][..COLUMNS * self.inputs];
        for (value, words) in out.iter_mut().zip(panel.chunks_exact(COLUMNS)) {
            *value = f32::from_bits(words[index % COLUMNS]);
        }
    }

    /// The weights as they were given, `[outputs, inputs]`.
    pub fn unpack(&self) -> Vec<f32> {
        let mut weight = vec![0.0; self.outputs * self.inputs];
        for (index, row) in weight.chunks_exact_mut(self.inputs.max(1)).enumerate() {
            self.row(index, row);
        }
        weight
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::matmul::tests::{assert_close, levels, rounding, values};
    use crate::matmul::{Side, Sizes, reference};

    #[test]
    fn a_layer_worked_by_hand() {
        let packed = Packed::pack(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3, 2);
        let mut out = [0.0; 6];
        packed.forward(&[1.0, 1.0, 1.0, -1.0], 2, &mut out);
        assert_eq!(out, [3.0, 7.0, 11.0, -1.0, -1.0, -1.0]);
        let mut row = [0.0; 2];
        packed.row(1, &mut row);
        assert_eq!(row, [3.0, 4.0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_row_has_the_same_bits_in_every_batch(rows in 1usize..40, inputs in 1usize..700, outputs in 1usize..140) {
            let weight = values(outputs * inputs, 1);
            let packed = Packed::pack(&weight, outputs, inputs);
            prop_assert_eq!(packed.unpack(), weight.clone());
            let x = values(rows * inputs, 2);
            let sizes = Sizes { rows, depth: inputs, columns: outputs };
            let expected = reference(sizes, Side::Straight(&x), Side::Transposed(&weight));
            for features in levels() {
                let tiles = Tiles::new(Format::F32, features);
                let mut whole = vec![0.0; rows * outputs];
                packed.run(tiles, &x, rows, Finish::default(), &mut whole);
                assert_close(&whole, &expected, rounding(inputs));
                for (x, whole) in x.chunks(inputs).zip(whole.chunks(outputs)) {
                    let mut alone = vec![0.0; outputs];
                    packed.run(tiles, x, 1, Finish::default(), &mut alone);
                    prop_assert_eq!(whole, &alone[..]);
                }
            }
        }
    }
}
