//! Dense matrix products for training: [`multiply`] on slices, [`linear`] on tensors.
//!
//! Both operands are packed into panels that the processor reads in order, whatever way they lie in
//! memory, so that a transposed operand costs no copy of its own (the scheme of Goto and van de Geijn,
//! "Anatomy of High-Performance Matrix Multiplication", 2008).

pub(crate) mod pack;
pub(crate) mod product;
pub(crate) mod tile;

use burn::tensor::Tensor;

use crate::op::{self, Host, Kernel, Pass};
use crate::simd;
use pack::{Matrix, Scratch, scratch};
use product::{Finish, Operand, Product, Start, pack_right, right_words};
use tile::{Format, Tiles};

/// Sizes of a product `[rows, depth] . [depth, columns]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Rows of the left operand and of the output.
    pub rows: usize,
    /// The size that is summed over.
    pub depth: usize,
    /// Columns of the right operand and of the output.
    pub columns: usize,
}

/// A row-major operand as it lies in memory, or the transpose of what lies there.
#[derive(Clone, Copy, Debug)]
pub enum Side<'a> {
    /// `[rows, depth]` on the left, `[depth, columns]` on the right.
    Straight(&'a [f32]),
    /// `[depth, rows]` on the left, `[columns, depth]` on the right.
    Transposed(&'a [f32]),
}

impl<'a> Side<'a> {
    fn data(self) -> &'a [f32] {
        match self {
            Self::Straight(data) | Self::Transposed(data) => data,
        }
    }

    fn left(self, sizes: Sizes) -> Matrix<'a> {
        let transposed = matches!(self, Self::Transposed(_));
        self.matrix(sizes.depth, transposed.then_some(sizes.rows))
    }

    fn right(self, sizes: Sizes) -> Matrix<'a> {
        let straight = matches!(self, Self::Straight(_));
        self.matrix(sizes.depth, straight.then_some(sizes.columns))
    }

    /// `lines` is given where the lines are neighbours in memory.
    fn matrix(self, depth: usize, lines: Option<usize>) -> Matrix<'a> {
        let (line_stride, depth_stride) = lines.map_or((depth, 1), |lines| (1, lines));
        Matrix { data: self.data(), depth, line_stride, depth_stride, format: Format::F32 }
    }
}

/// `out = left . right`, or `out += left . right` where `accumulate` is set; `out` is
/// `[rows, columns]`, row-major. Not-a-number and infinity propagate as in plain arithmetic.
///
/// # Panics
/// If a slice does not have the number of values that `sizes` says.
pub fn multiply(sizes: Sizes, left: Side<'_>, right: Side<'_>, accumulate: bool, out: &mut [f32]) {
    let start = if accumulate { Start::Existing } else { Start::Zero };
    multiply_from(sizes, [left, right], start, out);
}

fn multiply_from(sizes: Sizes, [left, right]: [Side<'_>; 2], start: Start<'_>, out: &mut [f32]) {
    let Sizes { rows, depth, columns } = sizes;
    assert_eq!(left.data().len(), rows * depth, "the left operand does not fit {sizes:?}");
    assert_eq!(right.data().len(), depth * columns, "the right operand does not fit {sizes:?}");
    let tiles = Tiles::new(Format::F32, simd::features());
    scratch(Scratch::Whole, right_words(columns, depth), |panels| {
        pack_right(&right.right(sizes), columns, depth, panels);
        let left = left.left(sizes);
        let (left, right) = (Operand::Source(&left), Operand::Packed(panels));
        Product { tiles, rows, columns, depth, left, right, start, finish: Finish::default() }.run(out);
    });
}

/// The product as three plain loops; what every fast path is tested against.
pub fn reference(sizes: Sizes, left: Side<'_>, right: Side<'_>) -> Vec<f32> {
    let (left, right) = (left.left(sizes), right.right(sizes));
    let value =
        |side: &Matrix<'_>, line: usize, k: usize| side.data[line * side.line_stride + k * side.depth_stride];
    let element = |index: usize| {
        let (row, column) = (index / sizes.columns, index % sizes.columns);
        (0..sizes.depth).map(|k| value(&left, row, k) * value(&right, column, k)).sum()
    };
    (0..sizes.rows * sizes.columns).map(element).collect()
}

/// `x . weight^T + bias` over the last dimension of `x`: `[.., inputs]` to `[.., outputs]`, with
/// `weight` `[outputs, inputs]` and `bias` `[outputs]`. Differentiable in all three.
///
/// # Panics
/// If the sizes do not agree.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let host = op::on_host(&x) && op::on_host(&weight) && bias.as_ref().is_none_or(op::on_host);
    if !host {
        return portable_linear(x, weight, bias);
    }
    let [x, weight] = [x.into_dispatch(), weight.into_dispatch()];
    Tensor::from_dispatch(match bias {
        Some(bias) => op::apply(Linear, [x, weight, bias.into_dispatch()]),
        None => op::apply(Linear, [x, weight]),
    })
}

fn portable_linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let mut shape = x.dims();
    let inputs = shape[D - 1];
    let rows: usize = shape[..D - 1].iter().product();
    let [outputs, _] = weight.dims();
    shape[D - 1] = outputs;
    let product = x.reshape([rows, inputs]).matmul(weight.transpose());
    match bias {
        Some(bias) => (product + bias.unsqueeze()).reshape(shape),
        None => product.reshape(shape),
    }
}

#[derive(Clone, Debug)]
struct Linear;

impl Linear {
    fn sizes(x: &Host, weight: &Host) -> Sizes {
        let (inputs, outputs) = (weight.dim(1), weight.dim(0));
        assert_eq!(x.width(), inputs, "linear: x is {:?}, the weight {:?}", x.shape(), weight.shape());
        let rows = x.shape().iter().rev().skip(1).product();
        Sizes { rows, depth: inputs, columns: outputs }
    }

    fn output(x: &Host, weight: &Host, start: Start<'_>) -> Host {
        let sizes = Self::sizes(x, weight);
        let mut shape = x.shape();
        shape.pop();
        shape.push(sizes.columns);
        product(shape, sizes, [Side::Straight(x.data()), Side::Transposed(weight.data())], start)
    }

    /// The gradients of `x` and `weight`: `dY . W` and `dY^T . X`.
    fn gradients(x: &Host, weight: &Host, gradient: &Host, wanted: [bool; 2]) -> [Option<Host>; 2] {
        let Sizes { rows, depth: inputs, columns: outputs } = Self::sizes(x, weight);
        let gradient = gradient.data();
        let of_x = || {
            let sizes = Sizes { rows, depth: outputs, columns: inputs };
            product(x.shape(), sizes, [gradient, weight.data()].map(Side::Straight), Start::Zero)
        };
        let of_weight = || {
            let sizes = Sizes { rows: outputs, depth: rows, columns: inputs };
            let sides = [Side::Transposed(gradient), Side::Straight(x.data())];
            product(weight.shape(), sizes, sides, Start::Zero)
        };
        [wanted[0].then(of_x), wanted[1].then(of_weight)]
    }
}

impl Kernel<2> for Linear {
    type Saved = ();

    fn forward(&self, [x, weight]: [&Host; 2]) -> (Host, ()) {
        (Self::output(x, weight, Start::Zero), ())
    }

    fn backward(&self, pass: Pass<'_, (), 2>) -> [Option<Host>; 2] {
        let [x, weight] = pass.inputs;
        Self::gradients(x, weight, pass.gradient, pass.wanted)
    }
}

impl Kernel<3> for Linear {
    type Saved = ();

    fn forward(&self, [x, weight, bias]: [&Host; 3]) -> (Host, ()) {
        assert_eq!(bias.width(), weight.dim(0), "linear: one bias for each output");
        (Self::output(x, weight, Start::Columns(bias.data())), ())
    }

    fn backward(&self, pass: Pass<'_, (), 3>) -> [Option<Host>; 3] {
        let [x, weight, bias] = pass.inputs;
        let [of_x, of_weight] = Self::gradients(x, weight, pass.gradient, [pass.wanted[0], pass.wanted[1]]);
        let of_bias = pass.wanted[2].then(|| Host::new(bias.shape(), column_sums(pass.gradient)));
        [of_x, of_weight, of_bias]
    }
}

fn product(shape: Vec<usize>, sizes: Sizes, sides: [Side<'_>; 2], start: Start<'_>) -> Host {
    let mut out = vec![0.0; sizes.rows * sizes.columns];
    multiply_from(sizes, sides, start, &mut out);
    Host::new(shape, out)
}

fn column_sums(rows: &Host) -> Vec<f32> {
    let mut sums = vec![0.0; rows.width()];
    for row in rows.data().chunks_exact(rows.width().max(1)) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    sums
}

#[cfg(test)]
pub(crate) mod tests;
