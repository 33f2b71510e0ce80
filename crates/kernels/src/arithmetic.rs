//! Small operations on long slices, shared among the threads.

use std::ops::Range;

use crate::parallel;
use crate::vector::{self, Affine, Dot, Map, Program, Vector, fold};

/// Values whose squares are summed in `f32` before the sum moves on to `f64`.
const BLOCK: usize = 4096;

/// Adds `y` to `x`, element by element: the residual connection.
///
/// # Panics
/// If the lengths differ.
pub fn add_in_place(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "summands differ in length");
    let data = x.as_mut_ptr();
    // SAFETY: both have the same length and `x` is borrowed alone; the output is the first input.
    unsafe { vector::apply(Plus, y.len(), [data.cast_const(), y.as_ptr()], [data]) }
}

/// Multiplies `x` by `factor`.
pub fn scale_in_place(x: &mut [f32], factor: f32) {
    let data = x.as_mut_ptr();
    let map = Affine { scale: factor, shift: 0.0 };
    // SAFETY: `x` is borrowed alone; the output is the input.
    unsafe { vector::apply(map, x.len(), [data.cast_const()], [data]) }
}

/// The sum of the squares of all values, the same for any number of threads. Its root is the norm
/// that gradient clipping compares; NaN or infinity among the values makes it so.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let mut sums = vec![0.0f64; x.len().div_ceil(BLOCK)];
    let blocks_a_piece = 16;
    parallel::pieces(&mut sums, blocks_a_piece, |piece, sums| {
        let first = piece * blocks_a_piece * BLOCK;
        let range = first..x.len().min(first + sums.len() * BLOCK);
        vector::run(Squares { x, range, sums });
    });
    sums.iter().sum()
}

/// The factor that brings gradients whose squares sum to `sum_of_squares` within `most` (their norm):
/// 1 where they already are, and where the norm is no number, which clipping cannot mend.
pub fn clip_factor(sum_of_squares: f64, most: f32) -> f32 {
    let norm = sum_of_squares.sqrt();
    if norm > f64::from(most) && norm.is_finite() { (f64::from(most) / norm) as f32 } else { 1.0 }
}

#[derive(Clone, Copy)]
struct Plus;

impl Map<2, 1> for Plus {
    #[inline(always)]
    fn call<V: Vector>(self, [a, b]: [V; 2]) -> [V; 1] {
        [a + b]
    }
}

struct Squares<'a> {
    x: &'a [f32],
    range: Range<usize>,
    sums: &'a mut [f64],
}

impl Program for Squares<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for (block, sum) in self.x[self.range].chunks(BLOCK).zip(self.sums) {
            let [part] = fold::<V, 2, 1>(Dot, [block, block], [0.0; 2], [0.0]);
            *sum = f64::from(part.sum());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    #[test]
    fn sums_and_products_reach_every_value() {
        for length in [0, 1, 17, 70_001] {
            let x = noise(length, 1, 1.0);
            let mut twice = x.clone();
            add_in_place(&mut twice, &x);
            scale_in_place(&mut twice, 0.5);
            assert_eq!(twice, x);
            let wanted: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
            assert!((sum_of_squares(&x) - wanted).abs() <= 1e-6 * wanted);
        }
    }

    #[test]
    fn clipping_only_shrinks() {
        assert_eq!(clip_factor(25.0, 1.0), 0.2);
        assert_eq!(clip_factor(0.25, 1.0), 1.0);
        assert_eq!(clip_factor(f64::NAN, 1.0), 1.0);
        assert_eq!(clip_factor(f64::INFINITY, 1.0), 1.0);
    }
}
