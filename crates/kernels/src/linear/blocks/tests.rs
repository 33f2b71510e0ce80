use super::*;

const KINDS: [WeightType; 5] =
    [WeightType::Q4_0, WeightType::Q8_0, WeightType::Q4K, WeightType::Q5K, WeightType::Q6K];

/// Bytes `37 i + 11` with the scales 0.5 and (for minima) 0.25.
fn sample(kind: WeightType) -> Vec<u8> {
    let (_, size) = size(kind).unwrap();
    let mut bytes: Vec<u8> = (0..size).map(|i| (i * 37 + 11) as u8).collect();
    let at = if kind == WeightType::Q6K { 208 } else { 0 };
    put_half(&mut bytes, at, f16::from_f32(0.5));
    if matches!(kind, WeightType::Q4K | WeightType::Q5K) {
        put_half(&mut bytes, 2, f16::from_f32(0.25));
    }
    bytes
}

/// Some values of [`sample`] and their sum, as the Python package `gguf` reads them.
type Golden = (WeightType, &'static [(usize, f32)], f64);

const GOLDEN: [Golden; 5] = [
    (WeightType::Q4_0, &[(0, -1.5), (1, 1.0), (15, -4.0), (17, -0.5), (31, 0.0)], -10.5),
    (WeightType::Q8_0, &[(0, 42.5), (1, 61.0), (15, -64.0), (17, -27.0), (31, -24.0)], -88.0),
    (
        WeightType::Q4K,
        &[(0, 157.75), (1, -12.75), (37, -4.0), (100, 47.5), (130, 94.5), (255, 24.25)],
        27220.0,
    ),
    (
        WeightType::Q5K,
        &[(0, 405.75), (1, -12.75), (37, 16.0), (100, 117.5), (130, 94.5), (255, 54.25)],
        58108.0,
    ),
    (
        WeightType::Q6K,
        &[(0, -715.5), (1, 848.0), (37, -126.0), (100, 1261.5), (130, 71.5), (255, -30.0)],
        2306.0,
    ),
];

#[test]
fn blocks_read_as_other_programs_read_them() {
    for (kind, values, sum) in GOLDEN {
        let weights = dequantize(kind, &sample(kind)).unwrap();
        for &(index, value) in values {
            assert_eq!(weights[index], value, "{kind} {index}");
        }
        assert_eq!(weights.iter().map(|&weight| f64::from(weight)).sum::<f64>(), sum, "{kind}");
    }
}

#[test]
fn encoding_undoes_decoding() {
    fn round_trip<F: Format>(bytes: &[u8]) {
        let mut again = vec![0; F::BYTES];
        F::encode(&F::decode(bytes), &mut again);
        assert_eq!(again, bytes);
    }
    for kind in KINDS {
        with_format!(kind, round_trip(&sample(kind)), else {});
    }
}

/// The relative error that each type may leave on weights like a wave.
const ERRORS: [(WeightType, f64); 5] = [
    (WeightType::Q4_0, 0.09),
    (WeightType::Q8_0, 0.006),
    (WeightType::Q4K, 0.06),
    (WeightType::Q5K, 0.03),
    (WeightType::Q6K, 0.02),
];

#[test]
fn quantising_leaves_a_small_error() {
    let weights: Vec<f32> =
        (0..2048).map(|i| (i as f32 * 0.37).sin() * (0.2 + (i % 19) as f32 / 19.0)).collect();
    let power: f64 = weights.iter().map(|&weight| f64::from(weight).powi(2)).sum();
    for (kind, most) in ERRORS {
        let again = dequantize(kind, &quantize(kind, &weights).unwrap()).unwrap();
        let error: f64 = weights.iter().zip(&again).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        assert!((error / power).sqrt() < most, "{kind}: {}", (error / power).sqrt());
    }
}

#[test]
fn odd_weights_stay_what_they_are() {
    for kind in KINDS {
        let zeros = dequantize(kind, &quantize(kind, &[0.0; 256]).unwrap()).unwrap();
        assert!(zeros.iter().all(|&weight| weight == 0.0), "{kind}");
        let ones = dequantize(kind, &quantize(kind, &[1.0; 256]).unwrap()).unwrap();
        assert!(ones.iter().all(|weight| (weight - 1.0).abs() < 0.02), "{kind}: {ones:?}");
        for bad in [f32::NAN, f32::INFINITY] {
            let mut weights = [0.5; 256];
            weights[3] = bad;
            assert_eq!(
                quantize(kind, &weights).unwrap().len(),
                256 / size(kind).unwrap().0 * size(kind).unwrap().1
            );
        }
    }
}

#[test]
fn partial_blocks_are_refused() {
    for kind in KINDS {
        assert!(matches!(quantize(kind, &[0.0; 31]), Err(LinearError::Width { .. })));
        assert!(matches!(dequantize(kind, &[0; 17]), Err(LinearError::Bytes { .. })));
    }
    assert!(matches!(quantize(WeightType::F32, &[0.0]), Err(LinearError::NotBlocks { .. })));
    assert!(matches!(dequantize(WeightType::Bf16, &[0; 2]), Err(LinearError::NotBlocks { .. })));
}
