//! What the kernels' tests share.

use burn::tensor::{Device, Tensor};

/// `count` values, roughly normal with deviation `spread`, the same for the same seed.
pub(crate) fn noise(count: usize, seed: u64, spread: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (0..4).map(|_| uniform()).sum::<f32>() * 1.73 * spread).collect()
}

/// Fails unless every value is within `tolerance` of the wanted one, relative to the greater of the
/// wanted one's size and `floor`. NaN matches NaN only.
pub(crate) fn assert_near(got: &[f32], wanted: &[f64], tolerance: f64, floor: f64) {
    assert_eq!(got.len(), wanted.len());
    for (index, (&got, &wanted)) in got.iter().zip(wanted).enumerate() {
        let same = got.is_nan() && wanted.is_nan() || f64::from(got) == wanted;
        let error = (f64::from(got) - wanted).abs() / wanted.abs().max(floor);
        assert!(same || error <= tolerance, "value {index}: {got:e}, not {wanted:e}: error {error:.2e}");
    }
}

/// The values of a tensor in row-major order.
pub(crate) fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

/// A tracked tensor on the CPU.
pub(crate) fn tracked<const D: usize>(data: &[f32], shape: [usize; D]) -> Tensor<D> {
    let data = burn::tensor::TensorData::new(data.to_vec(), shape);
    Tensor::from_data(data, &Device::flex().autodiff()).require_grad()
}

/// Checks that two functions of some tensors agree: in value, and in the gradient of every input for
/// random gradients of the result.
pub(crate) fn assert_same_slopes<const D: usize, const N: usize>(
    inputs: [Tensor<D>; N],
    ours: impl Fn([Tensor<D>; N]) -> Tensor<D>,
    theirs: impl Fn([Tensor<D>; N]) -> Tensor<D>,
    tolerance: f64,
) {
    let run = |function: &dyn Fn([Tensor<D>; N]) -> Tensor<D>| {
        let result = function(inputs.clone());
        let shape = result.dims();
        let weight = noise(shape.iter().product(), 99, 1.0);
        let weight = Tensor::<D>::from_data(burn::tensor::TensorData::new(weight, shape), &Device::flex());
        let gradients = (result.clone() * weight).sum().backward();
        let mut all = vec![values(result)];
        all.extend(inputs.iter().map(|input| values(input.grad(&gradients).expect("input is tracked"))));
        all
    };
    for (ours, theirs) in run(&ours).iter().zip(run(&theirs)) {
        let theirs: Vec<f64> = theirs.iter().map(|&x| f64::from(x)).collect();
        let scale = theirs.iter().fold(1e-3, |most: f64, x| most.max(x.abs()));
        assert_near(ours, &theirs, tolerance, scale);
    }
}
