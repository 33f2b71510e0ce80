use burn::tensor::{Device, Distribution};
use whit_kernels::op;

use super::heads::token;
use super::*;
use crate::nn::attention::Batched;
use crate::nn::block::BlockConfig;
use crate::nn::decoder::NormConfig;
use crate::nn::vars::{Precision, Random, Storage, Vars};

pub(crate) fn tiny() -> VisionConfig {
    let norm = NormConfig { centred: true, epsilon: 1e-6 };
    VisionConfig {
        image: [12, 8],
        patch: [4, 4],
        channels: 3,
        patch_bias: true,
        patch_norms: false,
        distillation_token: false,
        fixed_positions: false,
        registers: 0,
        antialias: false,
        block: BlockConfig { norm_first: true, ..BlockConfig::plain(16, 24, 2, norm) },
        layers: 2,
        embedding_norm: false,
        final_norm: FinalNorm::All,
        final_epsilon: 1e-6,
        pooled: Pooled::Class,
        head: Head::Class(5),
        projection: None,
        mask_ratio: None,
    }
}

fn build(config: VisionConfig) -> Vision {
    let storage = Storage::Packed(Precision::Native);
    Vision::new(config, &Vars::new(&Random { seed: 4 }, &storage)).unwrap_or_else(|error| panic!("{error}"))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    op::host(tensor).into_vec()
}

#[test]
fn patches_are_cut_row_by_row_and_what_is_left_over_is_left_out() {
    let config = VisionConfig { patch: [1, 2], channels: 2, image: [2, 4], ..tiny() };
    let model = build(config);
    let pixels: Vec<f32> = (0..20).map(|value| value as f32).collect(); // two colours of 2 x 5
    let pixels = Tensor::<1>::from_floats(&pixels[..], &Device::flex()).reshape([1, 2, 2, 5]);
    let rows = values(model.cut(pixels, false));
    assert_eq!(rows, [0., 1., 10., 11., 2., 3., 12., 13., 5., 6., 15., 16., 7., 8., 17., 18.]);
}

#[test]
fn an_image_gets_the_same_alone_and_in_company() {
    let model = build(VisionConfig { head: Head::ClassAndMean(5), registers: 2, ..tiny() });
    let device = Device::flex();
    let pixels = Tensor::<4>::random([3, 3, 16, 8], Distribution::Normal(0.0, 1.0), &device);
    let run = |pixels: Tensor<4>| {
        let batch = pixels.dims()[0];
        let hidden = model.forward(pixels, &mut Batched::whole(batch, None));
        values(model.logits(&hidden, None).map_or_else(|| panic!("classes"), |logits| logits.logits))
    };
    let alone: Vec<f32> =
        (0..3).flat_map(|image| run(pixels.clone().slice([image..image + 1, 0..3, 0..16, 0..8]))).collect();
    assert_eq!(run(pixels), alone);
}

#[test]
fn the_inventory_is_what_the_model_asks_for() {
    let config =
        VisionConfig { head: Head::Distilled(5), distillation_token: true, projection: Some(7), ..tiny() };
    let total: usize = config.matrices().iter().map(|matrix| matrix.inputs * matrix.outputs).sum();
    let storage = Storage::Dense(Device::flex());
    let model = Vision::new(config, &Vars::new(&Random { seed: 1 }, &storage));
    let biases = 16 + 2 * (4 * 16 + 24 + 16) + 2 * 5;
    assert_eq!(model.map(|model| model.bytes()).ok(), Some(4 * (total + biases)));
}

#[test]
fn sizes_weight_the_mean_of_patches() {
    let model = build(VisionConfig { head: Head::Mean(5), ..tiny() });
    let device = Device::flex();
    let hidden = Tensor::<3>::random([1, 3, 16], Distribution::Normal(0.0, 1.0), &device);
    let sizes = Tensor::<2>::from_data([[1.0, 3.0, 1.0]], &device);
    let [first, second] = [1, 2].map(|index| values(token(&hidden, index)));
    let expected: Vec<f32> = first.iter().zip(&second).map(|(a, b)| (3.0 * a + b) / 4.0).collect();
    for (ours, theirs) in values(model.mean(&hidden, Some(sizes))).iter().zip(expected) {
        assert!((ours - theirs).abs() < 1e-6);
    }
}
