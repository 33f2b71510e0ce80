use super::*;
use crate::testing::{assert_near, noise, tracked, values};
use burn::tensor::{Device, TensorData};

fn close(ours: Vec<f32>, theirs: Vec<f32>, tolerance: f64) {
    let theirs: Vec<f64> = theirs.into_iter().map(f64::from).collect();
    let scale = theirs.iter().fold(1e-3, |most: f64, x| most.max(x.abs()));
    assert_near(&ours, &theirs, tolerance, scale);
}

#[test]
fn a_case_by_hand() {
    let (weight, bias) = ([1.0, 2.0], [10.0, 20.0]);
    let rms = RowNorm { weight: &weight, bias: None, epsilon: 0.0, centred: false };
    let mut out = [0.0; 2];
    rms.forward(&[3.0, 4.0], &mut out);
    let root = 12.5f64.sqrt();
    assert_near(&out, &[3.0 / root, 8.0 / root], 1e-6, 1.0);
    let layer = RowNorm { bias: Some(&bias), centred: true, ..rms };
    layer.forward(&[3.0, 5.0], &mut out);
    assert_near(&out, &[9.0, 22.0], 1e-6, 1.0);
}

#[test]
fn rows_are_within_2e_6_of_the_reference() {
    for width in [1, 3, 16, 17, 65, 512, 3001] {
        let x: Vec<f32> = noise(4 * width, 3, 2.0).iter().map(|x| x + 1.0).collect();
        let (weight, bias) = (noise(width, 4, 1.0), noise(width, 5, 1.0));
        for (centred, bias) in [(false, None), (true, None), (true, Some(&bias[..]))] {
            let norm = RowNorm { weight: &weight, bias, epsilon: 1e-5, centred };
            let mut out = vec![0.0; x.len()];
            norm.forward(&x, &mut out);
            let wanted: Vec<f64> = x.chunks(width).flat_map(|row| norm.reference(row)).collect();
            assert_near(&out, &wanted, 2e-6, 1.0);
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_company_and_fused() {
    let width = 131;
    let (x, residual, weight) =
        (noise(300 * width, 1, 1.0), noise(300 * width, 2, 1.0), noise(width, 3, 1.0));
    let norm = RowNorm { weight: &weight, bias: None, epsilon: 1e-6, centred: false };
    let (mut sum, mut fused) = (x.clone(), vec![0.0; x.len()]);
    norm.add_forward(&mut sum, &residual, &mut fused);
    assert!(sum.iter().zip(&x).zip(&residual).all(|((sum, x), residual)| *sum == x + residual));
    for row in [0, 150, 299] {
        let mut alone = vec![0.0; width];
        norm.forward(&sum[row * width..][..width], &mut alone);
        assert_eq!(alone, fused[row * width..][..width]);
    }
}

#[test]
fn nan_stays_in_its_row() {
    let norm = RowNorm { weight: &[1.0; 2], bias: None, epsilon: 1e-6, centred: false };
    let mut out = [0.0; 6];
    norm.forward(&[f32::NAN, 1.0, f32::INFINITY, 1.0, 1.0, 1.0], &mut out);
    assert!(out[0].is_nan() && out[1].is_nan() && out[2].is_nan());
    assert_eq!(out[3], 0.0);
    assert_near(&out[4..], &[1.0, 1.0], 1e-6, 1.0);
}

fn parameters(width: usize) -> [Tensor<1>; 2] {
    [7, 8].map(|seed| tracked(&noise(width, seed, 1.0), [width]))
}

/// Value and gradients of a function of x, weight and bias.
fn run(function: impl Fn(Tensor<3>, Tensor<1>, Tensor<1>) -> Tensor<3>) -> Vec<Vec<f32>> {
    let shape = [5, 9, 33];
    let x = tracked(&noise(5 * 9 * 33, 6, 2.0), shape);
    let [weight, bias] = parameters(33);
    let result = function(x.clone(), weight.clone(), bias.clone());
    let factor = TensorData::new(noise(5 * 9 * 33, 9, 1.0), shape);
    let gradients = (result.clone() * Tensor::from_data(factor, &Device::flex())).sum().backward();
    let of_bias = bias.grad(&gradients).map(values).unwrap_or_default();
    let of_weight = weight.grad(&gradients).map(values).unwrap_or_default();
    vec![values(result), x.grad(&gradients).map(values).unwrap_or_default(), of_weight, of_bias]
}

fn same(
    ours: impl Fn(Tensor<3>, Tensor<1>, Tensor<1>) -> Tensor<3>,
    theirs: impl Fn(Tensor<3>, Tensor<1>, Tensor<1>) -> Tensor<3>,
) {
    run(ours).into_iter().zip(run(theirs)).for_each(|(ours, theirs)| close(ours, theirs, 4e-6));
}

#[test]
fn gradients_equal_the_portable_path() {
    let (rms, layer) = (Norm { epsilon: 1e-5, centred: false }, Norm { epsilon: 1e-5, centred: true });
    same(|x, w, _| rms_norm(x, w, 1e-5), |x, w, _| portable(x, w, None, rms));
    same(|x, w, _| layer_norm(x, w, None, 1e-5), |x, w, _| portable(x, w, None, layer));
    same(|x, w, b| layer_norm(x, w, Some(b), 1e-5), |x, w, b| portable(x, w, Some(b), layer));
    same(
        |x, w, b| {
            let (sum, normed) = add_layer_norm(x.clone(), x, w, Some(b), 1e-5);
            sum + normed
        },
        |x, w, b| {
            let sum = x.clone() + x;
            sum.clone() + portable(sum, w, Some(b), layer)
        },
    );
}

#[test]
fn the_fused_sum_equals_the_parts() {
    let device = Device::flex();
    let tensor = |seed| Tensor::<2>::from_data(TensorData::new(noise(6 * 40, seed, 1.0), [6, 40]), &device);
    let weight = Tensor::<1>::from_data(TensorData::new(noise(40, 3, 1.0), [40]), &device);
    let (sum, normed) = add_rms_norm(tensor(1), tensor(2), weight.clone(), 1e-6);
    sum.clone().into_data().assert_eq(&(tensor(1) + tensor(2)).into_data(), true);
    normed.into_data().assert_eq(&rms_norm(sum, weight, 1e-6).into_data(), true);
}
