//! Rotary position embedding (Su et al., arXiv:2104.09864): pairs of values of each head are turned
//! by an angle that grows with the token's position.
//!
//! Angles come as tables of cosines and sines, a row for each token, so that any positions and any
//! scaling of frequencies work. Only the pairs that the tables cover are turned (partial rotary); the
//! rest of the head passes through. NaN and infinity stay within their pair.

use std::ops::Range;

use burn::tensor::Tensor;

use crate::op::{self, Host, Kernel, Pass};
use crate::parallel::Shared;
use crate::vector::{self, Program, Vector};

/// Which values of a head form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Value `i` with value `i + rotary_dim / 2`: Llama in Hugging Face's layout, GPT-NeoX.
    Halves,
    /// Value `2i` with value `2i + 1`: GPT-J, and the paper.
    Interleaved,
}

/// One call on slices: what to turn, and by how much.
#[derive(Clone, Copy, Debug)]
pub struct Turn<'a> {
    /// Cosines, [tokens, rotary_dim / 2].
    pub cos: &'a [f32],
    /// Sines, in the same shape.
    pub sin: &'a [f32],
    /// The number of tokens.
    pub tokens: usize,
    /// The width of a head, at least `rotary_dim`.
    pub head_dim: usize,
    /// The pairs.
    pub style: Style,
    /// Turns the other way: the derivative, and how a cached key is taken back to position zero.
    pub inverse: bool,
}

impl Turn<'_> {
    /// Turns `x` ([tokens, heads, head_dim]) in place.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn in_place(&self, x: &mut [f32]) {
        let per_token = self.check(x.len());
        // SAFETY: `x` is borrowed alone and already written.
        unsafe { self.tokens(None, &Shared(x.as_mut_ptr()), per_token) }
    }

    /// Turns `x` ([tokens, heads, head_dim]) into a new vector.
    ///
    /// # Panics
    /// If lengths do not fit.
    pub fn turned(&self, x: &[f32]) -> Vec<f32> {
        let per_token = self.check(x.len());
        // SAFETY: the vector has room for the tokens of `x`, which cover it.
        unsafe { vector::filled(x.len(), |out| self.tokens(Some(x), &Shared(out), per_token)) }
    }

    /// Turns all tokens in `out`, after a copy from `from` if there is one.
    ///
    /// # Safety
    /// `out` must be writable for all tokens, and hold them if `from` does not.
    unsafe fn tokens(&self, from: Option<&[f32]>, out: &Shared<f32>, per_token: usize) {
        vector::rows(self.tokens, per_token, |range| {
            vector::run(Tokens { turn: self, from, out, per_token, range });
        });
    }

    /// The plain rotation of one head, which the kernel is held against.
    pub fn reference(&self, head: &[f32], token: usize) -> Vec<f64> {
        let half = self.cos.len() / self.tokens;
        let mut out: Vec<f64> = head.iter().map(|&x| f64::from(x)).collect();
        for pair in 0..half {
            let (first, second) = match self.style {
                Style::Halves => (pair, pair + half),
                Style::Interleaved => (2 * pair, 2 * pair + 1),
            };
            let (a, b) = (out[first], out[second]);
            let cos = f64::from(self.cos[token * half + pair]);
            let sin = f64::from(self.sin[token * half + pair]) * if self.inverse { -1.0 } else { 1.0 };
            (out[first], out[second]) = (a * cos - b * sin, b * cos + a * sin);
        }
        out
    }

    /// Values of one token, where everything fits.
    fn check(&self, length: usize) -> usize {
        assert_eq!(self.cos.len(), self.sin.len(), "cosines and sines differ in length");
        let tokens = self.tokens.max(1);
        assert!(length.is_multiple_of(tokens) && self.cos.len().is_multiple_of(tokens), "no rows of tokens");
        assert!(self.tokens > 0 || length == 0, "values without tokens");
        let per_token = length / tokens;
        assert!(
            self.head_dim > 0 && per_token.is_multiple_of(self.head_dim),
            "no heads of {}",
            self.head_dim
        );
        assert!(2 * self.cos.len() / tokens <= self.head_dim, "more angles than pairs");
        per_token
    }
}

struct Tokens<'a> {
    turn: &'a Turn<'a>,
    from: Option<&'a [f32]>,
    out: &'a Shared<f32>,
    per_token: usize,
    range: Range<usize>,
}

impl Program for Tokens<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Turn { cos, sin, tokens, head_dim, style, inverse } = *self.turn;
        let half = cos.len() / tokens;
        let sign = if inverse { -1.0 } else { 1.0 };
        for token in self.range {
            let out = self.out.at(token * self.per_token);
            // SAFETY: the caller of `tokens` vouches for `out`; tokens are disjoint.
            let x = unsafe {
                if let Some(from) = self.from {
                    let from = &from[token * self.per_token..][..self.per_token];
                    out.copy_from_nonoverlapping(from.as_ptr(), self.per_token);
                }
                std::slice::from_raw_parts_mut(out, self.per_token)
            };
            let angles = token * half..(token + 1) * half;
            for head in x.chunks_exact_mut(head_dim) {
                match style {
                    Style::Halves => turn_halves(head, &cos[angles.clone()], &sin[angles.clone()], sign),
                    Style::Interleaved => {
                        turn_interleaved(head, &cos[angles.clone()], &sin[angles.clone()], sign)
                    }
                }
            }
        }
    }
}

/// Plain loops: compiled inside a program, they become its vectors.
#[inline(always)]
fn turn_halves(head: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    let half = cos.len();
    let (first, rest) = head.split_at_mut(half);
    let second = &mut rest[..half];
    for pair in 0..half {
        let (a, b) = (first[pair], second[pair]);
        let (cos, sin) = (cos[pair], sin[pair] * sign);
        first[pair] = a * cos - b * sin;
        second[pair] = b * cos + a * sin;
    }
}

#[inline(always)]
fn turn_interleaved(head: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    let half = cos.len();
    let pairs = &mut head[..2 * half];
    for pair in 0..half {
        let (a, b) = (pairs[2 * pair], pairs[2 * pair + 1]);
        let (cos, sin) = (cos[pair], sin[pair] * sign);
        pairs[2 * pair] = a * cos - b * sin;
        pairs[2 * pair + 1] = b * cos + a * sin;
    }
}

/// Turns `x` ([tokens, heads, head_dim]) by the angles whose cosines and sines are given
/// ([tokens, rotary_dim / 2], `rotary_dim <= head_dim`). Differentiable in `x`; the tables are
/// constants.
///
/// # Panics
/// If shapes do not fit.
pub fn apply(x: Tensor<3>, cos: Tensor<2>, sin: Tensor<2>, style: Style) -> Tensor<3> {
    let [tokens, _, head_dim] = x.dims();
    let [rows, half] = cos.dims();
    assert!(rows == tokens && cos.dims() == sin.dims(), "tables of {rows} rows for {tokens} tokens");
    assert!(2 * half <= head_dim, "{half} angles for heads of {head_dim}");
    if !op::on_host(&x) {
        return portable(x, cos, sin, style);
    }
    let kernel = Rotary { cos: op::host(cos), sin: op::host(sin), style };
    Tensor::from_dispatch(op::apply(kernel, [x.into_dispatch()]))
}

fn portable(x: Tensor<3>, cos: Tensor<2>, sin: Tensor<2>, style: Style) -> Tensor<3> {
    let [tokens, heads, head_dim] = x.dims();
    let half = cos.dims()[1];
    let (cos, sin) = (cos.unsqueeze_dim::<3>(1), sin.unsqueeze_dim::<3>(1));
    let turned = x.clone().narrow(2, 0, 2 * half);
    // [tokens, heads, 2, half] or [tokens, heads, half, 2]
    let (shape, axis) = match style {
        Style::Halves => ([tokens, heads, 2, half], 2),
        Style::Interleaved => ([tokens, heads, half, 2], 3),
    };
    let pairs = turned.reshape(shape);
    let part = |index| pairs.clone().narrow(axis, index, 1).squeeze_dim::<3>(axis);
    let (a, b) = (part(0), part(1));
    let first = a.clone() * cos.clone() - b.clone() * sin.clone();
    let second = b * cos + a * sin;
    let turned = Tensor::stack::<4>(vec![first, second], axis).reshape([tokens, heads, 2 * half]);
    match head_dim - 2 * half {
        0 => turned,
        rest => Tensor::cat(vec![turned, x.narrow(2, 2 * half, rest)], 2),
    }
}

#[derive(Clone, Debug)]
struct Rotary {
    cos: Host,
    sin: Host,
    style: Style,
}

impl Rotary {
    fn turned(&self, x: &Host, inverse: bool) -> Host {
        let (cos, sin, style) = (self.cos.data(), self.sin.data(), self.style);
        let turn = Turn { cos, sin, tokens: x.dim(0), head_dim: x.dim(2), style, inverse };
        Host::new(x.shape(), turn.turned(x.data()))
    }
}

impl Kernel<1> for Rotary {
    type Saved = ();

    fn forward(&self, [x]: [&Host; 1]) -> (Host, ()) {
        (self.turned(x, false), ())
    }

    fn backward(&self, pass: Pass<'_, (), 1>) -> [Option<Host>; 1] {
        [Some(self.turned(pass.gradient, true))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_near, assert_same_slopes, noise, tracked};
    use burn::tensor::{Device, TensorData};
    use proptest::prelude::*;

    /// Cosines and sines of some angles, [tokens, half].
    fn tables(tokens: usize, half: usize) -> (Vec<f32>, Vec<f32>) {
        noise(tokens * half, 11, 3.0).iter().map(|angle| (angle.cos(), angle.sin())).unzip()
    }

    #[test]
    fn a_quarter_turn_by_hand() {
        let (cos, sin) = (&[0.0, 1.0], &[1.0, 0.0]);
        let turn = Turn { cos, sin, tokens: 1, head_dim: 5, style: Style::Halves, inverse: false };
        let mut x = [1.0, 2.0, 3.0, 4.0, 5.0];
        turn.in_place(&mut x);
        assert_eq!(x, [-3.0, 2.0, 1.0, 4.0, 5.0]);
        let mut x = [1.0, 2.0, 3.0, 4.0, 5.0];
        Turn { style: Style::Interleaved, ..turn }.in_place(&mut x);
        assert_eq!(x, [-2.0, 1.0, 3.0, 4.0, 5.0]);
    }

    proptest! {
        #[test]
        fn it_equals_the_reference_and_turns_back(
            tokens in 1usize..6, heads in 1usize..4, half in 0usize..40, rest in 1usize..9, interleaved: bool,
        ) {
            let head_dim = 2 * half + rest;
            let (cos, sin) = tables(tokens, half);
            let style = if interleaved { Style::Interleaved } else { Style::Halves };
            let turn = Turn { cos: &cos, sin: &sin, tokens, head_dim, style, inverse: false };
            let x = noise(tokens * heads * head_dim, 12, 1.0);
            let mut turned = x.clone();
            turn.in_place(&mut turned);
            let wanted: Vec<f64> =
                x.chunks(head_dim).enumerate().flat_map(|(index, head)| turn.reference(head, index / heads)).collect();
            assert_near(&turned, &wanted, 1e-6, 1.0);
            Turn { inverse: true, ..turn }.in_place(&mut turned);
            let wanted: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            assert_near(&turned, &wanted, 1e-6, 1.0);
        }
    }

    #[test]
    fn tensors_and_gradients_equal_the_portable_path() {
        let (cos, sin) = tables(6, 8);
        let table =
            |data: &[f32]| Tensor::<2>::from_data(TensorData::new(data.to_vec(), [6, 8]), &Device::flex());
        for style in [Style::Halves, Style::Interleaved] {
            for head_dim in [16, 20] {
                let x = tracked(&noise(6 * 3 * head_dim, 1, 1.0), [6, 3, head_dim]);
                assert_same_slopes(
                    [x],
                    |[x]| apply(x, table(&cos), table(&sin), style),
                    |[x]| portable(x, table(&cos), table(&sin), style),
                    1e-6,
                );
            }
        }
    }

    #[test]
    #[should_panic(expected = "tables of 2 rows for 3 tokens")]
    fn tables_for_other_tokens_are_refused() {
        let zeros = |shape| Tensor::<2>::zeros(shape, &Device::flex());
        apply(Tensor::zeros([3, 1, 4], &Device::flex()), zeros([2, 2]), zeros([2, 2]), Style::Halves);
    }
}
