use proptest::prelude::*;

use super::*;
use crate::linear::tests::{all_levels, noise};
use crate::linear::{PackedLinear, multiply, quantized::Quantized};

const FLOATS: [WeightType; 2] = [WeightType::F32, WeightType::Bf16];

/// Random weights of which the smaller two of every four are zero.
fn two_four(outputs: usize, inputs: usize, seed: u64) -> Vec<f32> {
    let mut weight = noise(outputs * inputs, seed);
    for row in weight.chunks_mut(inputs) {
        for quad in row.chunks_mut(QUAD) {
            let mut order: Vec<usize> = (0..quad.len()).collect();
            order.sort_by(|&a, &b| quad[a].abs().total_cmp(&quad[b].abs()));
            for &place in &order[..quad.len().saturating_sub(2)] {
                quad[place] = 0.0;
            }
        }
    }
    weight
}

/// Random weights of which a share is zero.
fn scattered(count: usize, share: f32, seed: u64) -> Vec<f32> {
    let mut weight = noise(count, seed);
    for (weight, chance) in weight.iter_mut().zip(noise(count, seed + 1)) {
        if chance.abs() < share {
            *weight = 0.0;
        }
    }
    weight
}

/// The product in `f64`, and the sum of the magnitudes of its terms.
fn reference(weight: &[f32], x: &[f32], inputs: usize) -> Vec<(f64, f64)> {
    let mut results = Vec::new();
    for x in x.chunks(inputs) {
        for row in weight.chunks(inputs) {
            let terms = row.iter().zip(x).map(|(weight, x)| f64::from(*weight) * f64::from(*x));
            results.push(terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs())));
        }
    }
    results
}

fn assert_near(found: &[f32], expected: &[(f64, f64)], case: &str) {
    for (i, (found, (wanted, size))) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - wanted).abs();
        assert!(error <= 1e-5 * size, "{case}, element {i}: {found} for {wanted}");
    }
}

fn check_floats(weight: &[f32], outputs: usize, inputs: usize, pattern: Pattern) {
    let (rows, x) = (11, noise(11 * inputs, 9));
    for kind in FLOATS {
        let layer = PackedLinear::pack_sparse(weight, outputs, inputs, kind, pattern).unwrap();
        let dense = PackedLinear::pack(weight, outputs, inputs, kind).unwrap();
        assert_eq!(layer.unpack(), dense.unpack(), "{kind} {pattern}");
        let expected = reference(&layer.unpack(), &x, inputs);
        let sparse = Sparse::pack(weight, outputs, inputs, kind, pattern).unwrap();
        for level in all_levels() {
            let mut together = vec![0.0; rows * outputs];
            sparse.forward_at(level, &x, rows, &mut together);
            assert_near(&together, &expected, &format!("{kind} {pattern} {level:?} {outputs}x{inputs}"));
            for (x, together) in x.chunks(inputs).zip(together.chunks(outputs)) {
                let mut alone = vec![0.0; outputs];
                sparse.forward_at(level, x, 1, &mut alone);
                assert_eq!(alone, together, "a row depends on its company");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn two_of_four_equal_the_reference(outputs in 1usize..70, inputs in 1usize..300, seed in 0u64..1000) {
        check_floats(&two_four(outputs, inputs, seed), outputs, inputs, Pattern::TwoFour);
    }

    #[test]
    fn bitmaps_equal_the_reference(
        outputs in 1usize..70, inputs in 1usize..150, share in 0.0f32..1.0, seed in 0u64..1000,
    ) {
        check_floats(&scattered(outputs * inputs, share, seed), outputs, inputs, Pattern::Bitmap);
    }

    #[test]
    fn halved_int8_has_the_bits_of_dense_int8(
        rows in 1usize..20, outputs in 1usize..70, inputs in 1usize..300, seed in 0u64..1000,
    ) {
        let weight = two_four(outputs, inputs, seed);
        let halved = Quantized::pack_halved(&weight, outputs, inputs).unwrap();
        let mut dense = Quantized::zeros(outputs, inputs, WeightType::Int8).unwrap();
        dense.set_rows(0..outputs, &weight);
        let (x, bias) = (noise(rows * inputs, seed + 1), noise(outputs, seed + 2));
        for level in all_levels() {
            let [mut found, mut wanted] = [(); 2].map(|()| vec![0.0; rows * outputs]);
            multiply::at(level, &mut [(&halved, Some(&bias), &mut found)], &x, rows);
            multiply::at(level, &mut [(&dense, Some(&bias), &mut wanted)], &x, rows);
            prop_assert_eq!(&found, &wanted, "{:?}", level);
        }
        let [mut found, mut wanted] = [(); 2].map(|()| vec![0.0; inputs]);
        halved.row(outputs - 1, &mut found);
        dense.row(outputs - 1, &mut wanted);
        prop_assert_eq!(found, wanted);
    }
}

#[test]
fn a_product_by_hand() {
    // 1 of input 1 and 2 of input 3; 3 of input 4.
    let weight = [0.0, 1.0, 0.0, 2.0, 3.0, 0.0, 0.0, 0.0];
    let x = [5.0, 7.0, 11.0, 13.0, 17.0, 19.0, 23.0, 29.0];
    for pattern in [Pattern::TwoFour, Pattern::Bitmap] {
        let layer = PackedLinear::pack_sparse(&weight, 1, 8, WeightType::F32, pattern).unwrap();
        let mut out = [0.0];
        layer.forward(&x, 1, Some(&[0.5]), &mut out);
        assert_eq!(out, [7.0 + 26.0 + 51.0 + 0.5], "{pattern}");
        assert_eq!(layer.pattern(), Some(pattern));
    }
}

#[test]
fn sums_of_very_long_rows_do_not_overflow() {
    let inputs = 1 << 16;
    let weight: Vec<f32> = (0..inputs).map(|i| if i % 4 < 2 { 1.0 } else { 0.0 }).collect();
    let layer = PackedLinear::pack_sparse(&weight, 1, inputs, WeightType::Int8, Pattern::TwoFour).unwrap();
    let mut out = [0.0];
    layer.forward(&vec![1.0; inputs], 1, None, &mut out);
    assert!((out[0] - 32768.0).abs() < 1.0, "{}", out[0]);
}

#[test]
fn half_the_weights_take_little_more_than_half_the_bytes() {
    let (outputs, inputs) = (64, 256);
    let weight = two_four(outputs, inputs, 1);
    for (kind, pattern, most) in [
        (WeightType::F32, Pattern::TwoFour, 0.532),
        (WeightType::Bf16, Pattern::TwoFour, 0.563),
        (WeightType::Int8, Pattern::TwoFour, 0.65),
        (WeightType::F32, Pattern::Bitmap, 0.54),
        (WeightType::Bf16, Pattern::Bitmap, 0.57),
    ] {
        let sparse = PackedLinear::pack_sparse(&weight, outputs, inputs, kind, pattern).unwrap().bytes();
        let dense = PackedLinear::pack(&weight, outputs, inputs, kind).unwrap().bytes();
        assert!((sparse as f64) < most * dense as f64, "{kind} {pattern}: {sparse} of {dense}");
    }
}

#[test]
fn the_pattern_is_found() {
    let weight = two_four(8, 64, 1);
    assert_eq!(Pattern::of(&weight, 64, WeightType::Int8), Some(Pattern::TwoFour));
    assert_eq!(Pattern::of(&noise(512, 1), 64, WeightType::F32), None);
    assert_eq!(Pattern::of(&weight, 64, WeightType::Q4K), None);
    let scattered = scattered(512, 0.6, 1);
    let wide = *all_levels().last().unwrap() == Level::Avx512;
    assert_eq!(Pattern::of(&scattered, 64, WeightType::Bf16), wide.then_some(Pattern::Bitmap));
    assert_eq!(Pattern::of(&[], 0, WeightType::F32), None);
}

#[test]
fn what_has_no_sparse_form_is_named() {
    let weight = [1.0, 2.0, 0.0, 0.0, 0.0, 3.0, 4.0, 5.0];
    let error = PackedLinear::pack_sparse(&weight, 1, 8, WeightType::F32, Pattern::TwoFour).unwrap_err();
    assert_eq!(error, LinearError::NotTwoFour { output: 0, input: 4, found: 3 });
    let error = PackedLinear::pack_sparse(&weight, 1, 8, WeightType::Int8, Pattern::Bitmap).unwrap_err();
    assert_eq!(error, LinearError::NotSparse { kind: WeightType::Int8, pattern: Pattern::Bitmap });
    PackedLinear::pack_sparse(&[], 0, 8, WeightType::F32, Pattern::Bitmap).unwrap().forward(
        &[1.0; 8],
        1,
        None,
        &mut [],
    );
}
