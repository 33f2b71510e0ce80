use burn::tensor::{Device, TensorData};
use proptest::prelude::*;

use super::lanes;
use super::*;
use crate::simd::{self, Level};

const QUANTIZED: [WeightType; 6] =
    [WeightType::Int8, WeightType::Q4_0, WeightType::Q8_0, WeightType::Q4K, WeightType::Q5K, WeightType::Q6K];

/// Numbers from -1 to 1 that look random.
pub(super) fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next() + next() * next()).collect()
}

/// The levels of this processor that the kernels can take.
pub(super) fn all_levels() -> Vec<Level> {
    let top = lanes::level(simd::features());
    [Level::Plain, Level::Avx2, Level::Avx512].into_iter().filter(|&level| level <= top).collect()
}

fn quantized(layer: &PackedLinear) -> &Quantized {
    match &layer.weights {
        Weights::Quantized(weights) => weights,
        _ => panic!("a quantised type"),
    }
}

/// Activations as the kernels round them.
fn rounded(x: &[f32], inputs: usize, kind: WeightType) -> Vec<f64> {
    let group = if kind == WeightType::Int8 { inputs } else { 32 };
    let one = |x: &[f32]| -> Vec<f64> {
        let largest = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        if largest == 0.0 {
            return vec![0.0; x.len()];
        }
        let (scale, inverse) = (largest / 127.0, 127.0 / largest);
        x.iter().map(|x| f64::from((x * inverse).round_ties_even()) * f64::from(scale)).collect()
    };
    x.chunks(inputs).flat_map(|row| row.chunks(group).flat_map(one)).collect()
}

/// The product in `f64`, and the sum of the magnitudes of its terms.
fn reference(layer: &PackedLinear, x: &[f32], bias: Option<&[f32]>) -> Vec<(f64, f64)> {
    let (weights, x) = (layer.unpack(), rounded(x, layer.inputs(), layer.kind()));
    let mut results = Vec::new();
    for x in x.chunks(layer.inputs()) {
        for (output, row) in weights.chunks(layer.inputs()).enumerate() {
            let bias = bias.map_or(0.0, |bias| f64::from(bias[output]));
            let terms = row.iter().zip(x).map(|(weight, x)| f64::from(*weight) * x);
            results.push(terms.fold((bias, bias.abs()), |(sum, size), term| (sum + term, size + term.abs())));
        }
    }
    results
}

fn check_against_reference(kind: WeightType, outputs: usize, inputs: usize, rows: usize) {
    let layer = PackedLinear::pack(&noise(outputs * inputs, 1), outputs, inputs, kind).unwrap();
    let (x, bias) = (noise(rows * inputs, 2), noise(outputs, 3));
    let expected = reference(&layer, &x, Some(&bias));
    for level in all_levels() {
        let mut out = vec![0.0; rows * outputs];
        multiply::at(level, &mut [(quantized(&layer), Some(&bias), &mut out)], &x, rows);
        for (i, (found, (wanted, size))) in out.iter().zip(&expected).enumerate() {
            let error = (f64::from(*found) - wanted).abs();
            assert!(
                error <= 1e-5 * size,
                "{kind} {level:?} {outputs}x{inputs} element {i}: {found} for {wanted}"
            );
        }
    }
}

#[test]
fn every_type_and_level_equals_the_reference() {
    for kind in QUANTIZED {
        let multiple = kind.multiple();
        for (outputs, width, rows) in [(1, 1, 1), (33, 3, 2), (64, 2, 8), (100, 1, 9), (31, 5, 21)] {
            check_against_reference(
                kind,
                outputs,
                if multiple == 1 { width * 37 } else { width * multiple },
                rows,
            );
        }
    }
}

#[test]
fn results_are_near_those_of_the_unquantised_weights() {
    let (outputs, inputs, rows) = (48, 1024, 5);
    let (weight, x) = (noise(outputs * inputs, 5), noise(rows * inputs, 6));
    let exact = PackedLinear::pack(&weight, outputs, inputs, WeightType::F32).unwrap();
    let mut wanted = vec![0.0; rows * outputs];
    exact.forward(&x, rows, None, &mut wanted);
    let power: f32 = wanted.iter().map(|value| value * value).sum();
    for (kind, most) in [
        (WeightType::Int8, 0.012),
        (WeightType::Q8_0, 0.01),
        (WeightType::Q6K, 0.025),
        (WeightType::Q5K, 0.045),
        (WeightType::Q4K, 0.09),
        (WeightType::Q4_0, 0.11),
    ] {
        let layer = PackedLinear::pack(&weight, outputs, inputs, kind).unwrap();
        let mut found = vec![0.0; rows * outputs];
        layer.forward(&x, rows, None, &mut found);
        let error: f32 = found.iter().zip(&wanted).map(|(a, b)| (a - b) * (a - b)).sum();
        let relative = (error / power).sqrt();
        assert!(relative < most, "{kind}: {relative}");
    }
}

#[test]
fn a_product_by_hand() {
    // Rows of two runs: weights 1 and -1, of activations all 2: each run gives 64 and -64.
    let weight: Vec<f32> = (0..64).map(|i| if i < 32 { 1.0 } else { -1.0 }).chain([0.5; 64]).collect();
    for kind in [WeightType::Q8_0, WeightType::Int8, WeightType::Q4_0] {
        let layer = PackedLinear::pack(&weight, 2, 64, kind).unwrap();
        let mut out = [0.0; 2];
        layer.forward(&[2.0; 64], 1, Some(&[1.0, 2.0]), &mut out);
        assert!((out[0] - 1.0).abs() < 0.05 && (out[1] - 66.0).abs() < 0.05, "{kind}: {out:?}");
    }
}

#[test]
fn packing_keeps_the_blocks() {
    for kind in [WeightType::Q4_0, WeightType::Q8_0, WeightType::Q4K, WeightType::Q5K, WeightType::Q6K] {
        let (outputs, inputs) = (37, 2 * kind.multiple());
        let weight = noise(outputs * inputs, 7);
        let bytes = blocks::quantize(kind, &weight).unwrap();
        let layer = PackedLinear::from_blocks(kind, &bytes, outputs, inputs).unwrap();
        assert_eq!(layer.unpack(), blocks::dequantize(kind, &bytes).unwrap(), "{kind}");
        assert_eq!(
            layer.unpack(),
            PackedLinear::pack(&weight, outputs, inputs, kind).unwrap().unpack(),
            "{kind}"
        );
        let slices = outputs.next_multiple_of(32) / 16;
        assert!(layer.bytes() <= bytes.len() / outputs * 16 * slices + 64 * slices, "{kind}");
    }
}

#[test]
fn every_bit_pattern_of_a_block_survives() {
    for kind in [WeightType::Q4_0, WeightType::Q8_0, WeightType::Q4K, WeightType::Q5K, WeightType::Q6K] {
        let (weights, size) = blocks::size(kind).unwrap();
        let mut bytes: Vec<u8> =
            noise(size * 8, 11).iter().map(|value| (value * 1000.0) as i32 as u8).collect();
        for block in bytes.chunks_exact_mut(size) {
            // Keep the half-precision scales finite.
            match kind {
                WeightType::Q6K => block[209] &= 0x3f,
                WeightType::Q4K | WeightType::Q5K => {
                    (block[1], block[3]) = (block[1] & 0x3f, block[3] & 0x3f)
                }
                _ => block[1] &= 0x3f,
            }
        }
        let layer = PackedLinear::from_blocks(kind, &bytes, 8, weights).unwrap();
        assert_eq!(layer.unpack(), blocks::dequantize(kind, &bytes).unwrap(), "{kind}");
        let x = noise(weights * 3, 12);
        let expected = reference(&layer, &x, None);
        for level in all_levels() {
            let mut out = vec![0.0; 24];
            multiply::at(level, &mut [(quantized(&layer), None, &mut out)], &x, 3);
            for (found, (wanted, size)) in out.iter().zip(&expected) {
                assert!(
                    (f64::from(*found) - wanted).abs() <= 1e-5 * size,
                    "{kind} {level:?}: {found} for {wanted}"
                );
            }
        }
    }
}

#[test]
fn numbers_that_are_not_finite_spoil_their_row_only() {
    for kind in QUANTIZED {
        let layer = PackedLinear::pack(&noise(40 * 256, 1), 40, 256, kind).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = noise(2 * 256, 2);
            x[100] = bad;
            let mut out = vec![0.0; 80];
            layer.forward(&x, 2, None, &mut out);
            assert!(out[..40].iter().all(|value| value.is_nan()), "{kind} {bad}");
            assert!(out[40..].iter().all(|value| value.is_finite()), "{kind} {bad}");
        }
    }
}

#[test]
fn no_rows_and_no_outputs_are_fine() {
    for kind in WeightType::ALL {
        PackedLinear::pack(&noise(512, 1), 2, 256, kind).unwrap().forward(&[], 0, None, &mut []);
        PackedLinear::pack(&[], 0, 256, kind).unwrap().forward(&[1.0; 256], 1, None, &mut []);
    }
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let error = PackedLinear::pack(&[0.0; 300], 1, 300, WeightType::Q4K).unwrap_err();
    assert_eq!(
        error.to_string(),
        "q4_k cannot hold rows of 300 weights (it takes multiples of 256); use int8"
    );
    assert_eq!(WeightType::Q6K.fitting(288), WeightType::Q8_0);
    let error = PackedLinear::from_blocks(WeightType::Q8_0, &[0; 33], 1, 32).unwrap_err();
    assert_eq!(error, LinearError::Bytes { expected: 34, found: 33 });
    let error = PackedLinear::from_blocks(WeightType::Q8_0, &[], usize::MAX / 2, 32 << 20).unwrap_err();
    assert!(matches!(error, LinearError::TooLarge { .. }));
    let error = PackedLinear::from_blocks(WeightType::Int8, &[], 1, 32).unwrap_err();
    assert_eq!(error, LinearError::NotBlocks { kind: WeightType::Int8 });
    assert!(matches!(PackedLinear::pack(&[0.0; 5], 2, 3, WeightType::F32), Err(LinearError::Shape { .. })));
    assert!("q3_k".parse::<WeightType>().is_err());
    assert!(WeightType::ALL.iter().all(|kind| kind.to_string().parse() == Ok(*kind)));
}

#[test]
fn tensors_keep_their_leading_dimensions() {
    let device = Device::flex();
    let layer = PackedLinear::pack(&noise(3 * 32, 1), 3, 32, WeightType::Q8_0).unwrap();
    let x = noise(4 * 32, 2);
    let mut expected = vec![0.0; 12];
    layer.forward(&x, 4, Some(&[1.0, 2.0, 3.0]), &mut expected);
    let x = Tensor::<3>::from_data(TensorData::new(x, [2, 2, 32]), &device);
    let bias = Tensor::<1>::from_data([1.0, 2.0, 3.0], &device);
    let found = linear(x, &layer, Some(bias)).into_data();
    found.assert_eq(&TensorData::new(expected, [2, 2, 3]), true);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_rows_result_does_not_depend_on_the_other_rows(
        rows in 1usize..20, outputs in 1usize..70, width in 1usize..4, kind in 0usize..6, seed in 0u64..1000,
    ) {
        let kind = QUANTIZED[kind];
        let inputs = width * kind.multiple().max(19);
        let weight = noise(outputs * inputs, seed);
        let layer = PackedLinear::pack(&weight, outputs, inputs, kind).unwrap();
        let other = PackedLinear::pack(&weight, outputs, inputs, WeightType::Int8).unwrap();
        let x = noise(rows * inputs, seed + 1);
        for level in all_levels() {
            let mut together = vec![0.0; rows * outputs];
            multiply::at(level, &mut [(quantized(&layer), None, &mut together)], &x, rows);
            for (x, together) in x.chunks(inputs).zip(together.chunks(outputs)) {
                let mut alone = vec![0.0; outputs];
                multiply::at(level, &mut [(quantized(&layer), None, &mut alone)], x, 1);
                prop_assert_eq!(&alone, together);
            }
        }
        let (mut single, mut first, mut second) =
            (vec![0.0; rows * outputs], vec![0.0; rows * outputs], vec![0.0; rows * outputs]);
        layer.forward(&x, rows, None, &mut single);
        forward_many(&[(&layer, None), (&other, None)], &x, rows, &mut [&mut first, &mut second]);
        prop_assert_eq!(&single, &first);
        other.forward(&x, rows, None, &mut single);
        prop_assert_eq!(&single, &second);
    }
}
