use burn::tensor::{Device, Distribution, TensorData, Tolerance};
use proptest::prelude::*;

use super::*;
use crate::matmul::tests::{assert_close, rounding, values};

fn random(shape: [usize; 4], seed: u32) -> Host {
    Host::new(shape, values(shape.iter().product(), seed))
}

#[test]
fn a_convolution_worked_by_hand() {
    let x = Host::new([1, 1, 3, 3], (1..10).map(|value| value as f32).collect());
    let weight = Host::new([1, 1, 2, 2], vec![1.0, 0.0, 0.0, -1.0]);
    let (out, ()) = Conv2d(Options::square(1, 0)).forward([&x, &weight]);
    assert_eq!(out.data(), [-4.0; 4]);
    let (out, ()) = Conv2d(Options::square(2, 1)).forward([&x, &weight]);
    assert_eq!(out.data(), [-1.0, -3.0, -7.0, -4.0]);
}

#[test]
fn padding_hides_what_is_not_a_number() {
    let mut data = vec![1.0; 64];
    data[0] = f32::NAN;
    let x = Host::new([1, 1, 8, 8], data);
    let weight = Host::new([1, 1, 3, 3], vec![1.0; 9]);
    let (out, ()) = Conv2d(Options::square(1, 1)).forward([&x, &weight]);
    let seen: Vec<usize> = (0..64).filter(|&pixel| out.data()[pixel].is_nan()).collect();
    assert_eq!(seen, [0, 1, 8, 9]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn equals_the_reference(
        batch in 1usize..4, groups in 1usize..4, channels in 1usize..12, outputs in 1usize..18,
        image in [3usize..20, 3usize..20], kernel in [1usize..4, 1usize..4],
        stride in [1usize..4, 1usize..4], padding in [0usize..3, 0usize..3],
    ) {
        let options = Options { stride, padding, groups };
        let shape = [batch, groups * channels, image[0], image[1]];
        let weight_shape = [groups * outputs, channels, kernel[0], kernel[1]];
        let (x, weight, bias) = (random(shape, 1), random(weight_shape, 2), values(groups * outputs, 3));
        let expected = reference(&x, &weight, Some(&bias), options);
        let depth = channels * kernel[0] * kernel[1];
        for (precision, tolerance) in [(Precision::F32, rounding(depth)), (Precision::Bf16, depth as f32 / 128.0)] {
            let packed = PackedConv::new(weight.data(), weight_shape, Some(&bias), options, precision);
            let mut out = vec![0.0; expected.data().len()];
            packed.forward(x.data(), shape, &mut out);
            assert_close(&out, expected.data(), tolerance);
        }
    }

    #[test]
    fn gradients_equal_burns(
        batch in 1usize..4, groups in 1usize..3, channels in 1usize..7, outputs in 1usize..9,
        image in [3usize..12, 3usize..12], kernel in 1usize..4, stride in 1usize..3, padding in 0usize..3,
    ) {
        let options = Options { groups, ..Options::square(stride, padding) };
        let device = Device::flex().autodiff();
        let random = |shape: [usize; 4]| {
            Tensor::<4>::random(shape, Distribution::Uniform(-1.0, 1.0), &device).require_grad()
        };
        let x = random([batch, groups * channels, image[0], image[1]]);
        let weight = random([groups * outputs, channels, kernel, kernel]);
        let bias = random([1, 1, 1, groups * outputs]);
        let results = [conv2d as fn(_, _, _, _) -> _, portable].map(|run: fn(_, _, _, _) -> Tensor<4>| {
            let y = run(x.clone(), weight.clone(), Some(bias.clone().reshape([groups * outputs])), options);
            let gradients = (y.clone() * y.clone()).sum().backward();
            let of = |tensor: &Tensor<4>| tensor.grad(&gradients).map(Tensor::into_data).into_iter();
            let gradients = [&x, &weight, &bias].into_iter().flat_map(of);
            std::iter::once(y.into_data()).chain(gradients).collect::<Vec<TensorData>>()
        });
        prop_assert_eq!(results[0].len(), 4);
        for (ours, theirs) in results[0].iter().zip(&results[1]) {
            ours.assert_approx_eq::<f32>(theirs, Tolerance::rel_abs(1e-3, 1e-3));
        }
    }
}

#[test]
fn bf16_is_the_reference_on_rounded_values() {
    let rounded = |host: &Host| {
        let data = host.data().iter().map(|&value| half::bf16::from_f32(value).to_f32()).collect();
        Host::new(host.shape(), data)
    };
    let (shape, weight_shape) = ([1, 7, 13, 21], [33, 7, 3, 3]);
    let (x, weight) = (random(shape, 4), random(weight_shape, 5));
    let options = Options::square(1, 1);
    let packed = PackedConv::new(weight.data(), weight_shape, None, options, Precision::Bf16);
    let mut out = vec![0.0; 33 * 13 * 21];
    packed.forward(x.data(), shape, &mut out);
    let expected = reference(&rounded(&x), &rounded(&weight), None, options);
    assert_close(&out, expected.data(), rounding(63));
}

#[test]
fn large_images_are_cut_right() {
    let (shape, weight_shape) = ([1, 70, 45, 100], [50, 70, 3, 3]);
    let (x, weight) = (random(shape, 6), random(weight_shape, 7));
    let options = Options::square(1, 1);
    let (out, ()) = Conv2d(options).forward([&x, &weight]);
    assert_close(out.data(), reference(&x, &weight, None, options).data(), rounding(630));
}
