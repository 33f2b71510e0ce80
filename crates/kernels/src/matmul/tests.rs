use burn::tensor::{Device, Distribution, TensorData, Tolerance};
use proptest::prelude::*;

use super::*;
use crate::simd::{Features, Level};

/// Small values with few digits, the same for every run.
pub(crate) fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// What rounding may change in an `f32` sum of `depth` products of values below one.
pub(crate) fn rounding(depth: usize) -> f32 {
    (depth + 1) as f32 * f32::EPSILON
}

/// Fails where two results differ by more than `tolerance`.
pub(crate) fn assert_close(actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len());
    for (index, (a, e)) in actual.iter().zip(expected).enumerate() {
        let same = (a - e).abs() <= tolerance || (a.is_nan() && e.is_nan()) || a == e;
        assert!(same, "{index}: {a} is not {e} (tolerance {tolerance})");
    }
}

/// Every level that this processor has.
pub(crate) fn levels() -> Vec<Features> {
    let found = simd::features();
    let all = [Level::Plain, Level::Avx2, Level::Avx512];
    let narrow = |level| Features { level, vnni: false, bf16: found.bf16 && level == Level::Avx512 };
    all.into_iter().filter(|&level| level <= found.level).map(narrow).collect()
}

fn side(transposed: bool, data: &[f32]) -> Side<'_> {
    if transposed { Side::Transposed(data) } else { Side::Straight(data) }
}

#[test]
fn a_product_worked_by_hand() {
    let sizes = Sizes { rows: 2, depth: 3, columns: 1 };
    let mut out = [10.0, 20.0];
    let left = Side::Straight(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    multiply(sizes, left, Side::Straight(&[1.0, 0.0, -1.0]), true, &mut out);
    assert_eq!(out, [8.0, 18.0]);
    multiply(sizes, left, Side::Transposed(&[1.0, 1.0, 1.0]), false, &mut out);
    assert_eq!(out, [6.0, 15.0]);
}

#[test]
fn an_empty_depth_gives_zeros() {
    let mut out = [f32::NAN; 6];
    let sizes = Sizes { rows: 2, depth: 0, columns: 3 };
    multiply(sizes, Side::Straight(&[]), Side::Straight(&[]), false, &mut out);
    assert_eq!(out, [0.0; 6]);
}

#[test]
fn not_a_number_and_infinity_stay_in_their_row() {
    let sizes = Sizes { rows: 3, depth: 5, columns: 33 };
    let (mut left, right) = (values(15, 1), values(165, 2));
    left[1] = f32::NAN;
    left[7] = f32::INFINITY;
    let mut out = vec![0.0; 99];
    multiply(sizes, Side::Straight(&left), Side::Straight(&right), false, &mut out);
    assert!(out[..33].iter().all(|value| value.is_nan()));
    assert!(out[33..66].iter().all(|value| value.is_infinite()));
    assert!(out[66..].iter().all(|value| value.is_finite()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn equals_the_reference(
        rows in 1usize..70, depth in 0usize..600, columns in 1usize..80,
        transposed in any::<[bool; 2]>(), accumulate in any::<bool>(),
    ) {
        let sizes = Sizes { rows, depth, columns };
        let (left, right) = (values(rows * depth, 3), values(depth * columns, 4));
        let (left, right) = (side(transposed[0], &left), side(transposed[1], &right));
        let mut expected = reference(sizes, left, right);
        let mut out = values(rows * columns, 5);
        if accumulate {
            expected.iter_mut().zip(&out).for_each(|(sum, start)| *sum += start);
        }
        multiply(sizes, left, right, accumulate, &mut out);
        assert_close(&out, &expected, rounding(depth));
    }

    #[test]
    fn every_level_equals_the_reference(rows in 1usize..40, depth in 1usize..300, columns in 1usize..70) {
        let sizes = Sizes { rows, depth, columns };
        let (x, weight) = (values(rows * depth, 6), values(depth * columns, 7));
        let expected = reference(sizes, Side::Straight(&x), Side::Transposed(&weight));
        for features in levels() {
            let half = (depth as f32).sqrt() / 128.0;
            for (format, tolerance) in [(Format::F32, rounding(depth)), (Format::Bf16, half)] {
                let tiles = Tiles::new(format, features);
                let words = format.words(depth);
                let matrix = |data| Matrix { data, depth, line_stride: depth, depth_stride: 1, format };
                let mut panels = pack::Words::zeros(right_words(columns, words));
                pack_right(&matrix(&weight), columns, words, &mut panels);
                let left = matrix(&x);
                let (left, right) = (Operand::Source(&left), Operand::Packed(&panels));
                let start = Start::Zero;
                let mut out = vec![f32::NAN; rows * columns];
                Product { tiles, rows, columns, depth: words, left, right, start, finish: Finish::default() }.run(&mut out);
                assert_close(&out, &expected, tolerance);
            }
        }
    }
}

#[test]
fn large_products_are_cut_right() {
    for (rows, depth, columns) in [(530, 300, 130), (3, 700, 2000), (1200, 64, 40)] {
        let sizes = Sizes { rows, depth, columns };
        let (left, right) = (values(rows * depth, 8), values(depth * columns, 9));
        let (left, right) = (Side::Straight(&left), Side::Transposed(&right));
        let mut out = vec![0.0; rows * columns];
        multiply(sizes, left, right, false, &mut out);
        assert_close(&out, &reference(sizes, left, right), rounding(depth));
    }
}

#[test]
fn linear_and_its_gradients_equal_burns() {
    let device = Device::flex().autodiff();
    let random = |shape: [usize; 2]| {
        Tensor::<2>::random(shape, Distribution::Uniform(-1.0, 1.0), &device).require_grad()
    };
    let (x, weight) = (random([21, 37]), random([45, 37]));
    let bias = random([1, 45]);
    let scale = random([21, 45]);
    let results = [linear::<3> as fn(_, _, _) -> _, portable_linear::<3>].map(|run| {
        let y = run(x.clone().reshape([3, 7, 37]), weight.clone(), Some(bias.clone().reshape([45])));
        let gradients = (y.clone().reshape([21, 45]) * scale.clone()).sum().backward();
        let of = |tensor: &Tensor<2>| tensor.grad(&gradients).map(Tensor::into_data).into_iter();
        let gradients = [&x, &weight, &bias, &scale].into_iter().flat_map(of);
        std::iter::once(y.into_data()).chain(gradients).collect::<Vec<TensorData>>()
    });
    assert_eq!(results[0].len(), 5);
    for (ours, theirs) in results[0].iter().zip(&results[1]) {
        ours.assert_approx_eq::<f32>(theirs, Tolerance::absolute(1e-4));
    }
}

#[test]
fn only_the_gradients_that_are_wanted() {
    let device = Device::flex();
    let x = Tensor::<2>::ones([2, 3], &device.clone().autodiff()).require_grad();
    let weight = Tensor::<2>::ones([4, 3], &device);
    let gradients = linear(x.clone(), weight, None).sum().backward();
    let of_x = x.grad(&gradients).map(Tensor::into_data);
    assert_eq!(of_x, Some(TensorData::from([[4.0f32; 3]; 2])));
}
