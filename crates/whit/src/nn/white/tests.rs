use burn::module::Module;
use burn::tensor::{Device, Distribution};
use whit_kernels::activation;
use whit_kernels::op;

use super::*;
use crate::nn::attention::Batched;
use crate::nn::decoder::NormConfig;
use crate::nn::vars::{Precision, Random, Storage};

const WIDTH: usize = 32;

fn values(tensor: Tensor<2>) -> Vec<f32> {
    op::host(tensor).into_vec()
}

fn close(ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len());
    let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{worst}");
}

fn random(rows: usize) -> Tensor<2> {
    Tensor::random([rows, WIDTH], Distribution::Normal(0.0, 1.0), &Device::flex())
}

fn ista(config: WhiteConfig, dictionary: Tensor<2>) -> Ista {
    let dictionary = TwoSided { matrix: Linear::dense(dictionary, None), transposed: None };
    Ista { dictionary, config }
}

/// An orthogonal matrix: the reflection at a random vector.
fn orthogonal() -> Tensor<2> {
    let v = random(1);
    let norm = v.clone().square().sum().into_scalar::<f32>();
    Tensor::eye(WIDTH, &Device::flex()) - v.clone().transpose().matmul(v) * (2.0 / norm)
}

#[test]
fn two_products_give_what_three_do() {
    let (z, d) = (random(17), random(WIDTH) * 0.25);
    let config = WhiteConfig { step: 0.3, sparsity: 0.2, tied_output: false };
    let code = z.clone().matmul(d.clone()) - z.clone().matmul(d.clone().transpose()).matmul(d.clone());
    let expected = activation::relu(z.clone() + code * 0.3 - 0.3 * 0.2);
    close(&values(ista(config, d).forward(z)), &values(expected), 1e-5);
}

#[test]
fn with_an_orthogonal_dictionary_a_whole_step_is_the_sparse_code() {
    let (z, d) = (random(9).abs(), orthogonal());
    let config = WhiteConfig { step: 1.0, sparsity: 0.1, tied_output: false };
    let expected = values(activation::relu(z.clone().matmul(d.clone()) - 0.1));
    close(&values(ista(config, d).forward(z)), &expected, 2e-6);
}

#[test]
fn a_code_is_never_negative_and_vanishes_at_a_high_price() {
    let step = |sparsity| {
        values(ista(WhiteConfig { sparsity, ..WhiteConfig::default() }, random(WIDTH)).forward(random(9)))
    };
    assert!(step(0.1).iter().all(|value| *value >= 0.0) && step(0.1).iter().any(|value| *value > 0.0));
    assert!(step(1e3).iter().all(|value| *value == 0.0));
}

fn block(tied_output: bool, heads: usize, storage: &Storage) -> (BlockConfig, WhiteBlock) {
    let norm = NormConfig { centred: true, epsilon: 1e-5 };
    let white = WhiteConfig { tied_output, ..WhiteConfig::default() };
    let config = BlockConfig { white: Some(white), ..BlockConfig::plain(WIDTH, WIDTH, heads, norm) };
    let vars = Vars::new(&Random { seed: 3 }, storage).at("encoder.layer.0");
    let block = WhiteBlock::new(&config, white, 0, &vars).unwrap_or_else(|error| panic!("{error}"));
    (config, block)
}

/// Packed and as parameters, with an output matrix of its own, the transposed one, or none.
#[test]
fn both_forms_of_the_weights_agree() {
    for (tied, heads) in [(false, 4), (true, 4), (true, 1), (false, 1)] {
        let forms = [Storage::Dense(Device::flex()), Storage::Packed(Precision::Native)];
        let x = random(10);
        let [dense, packed] = forms.map(|storage| {
            values(block(tied, heads, &storage).1.forward(x.clone(), &mut Batched::whole(2, None)))
        });
        close(&dense, &packed, 1e-5);
    }
}

#[test]
fn the_inventory_has_every_matrix_once() {
    for (tied, heads) in [(false, 4), (true, 4), (false, 1)] {
        let (config, block) = block(tied, heads, &Storage::Dense(Device::flex()));
        let matrices: usize = config.matrices(0).iter().map(|matrix| matrix.inputs * matrix.outputs).sum();
        let bias = if !tied && heads > 1 { WIDTH } else { 0 };
        assert_eq!(block.num_params(), matrices + bias + 4 * WIDTH);
    }
}

/// A gradient reaches the dictionary from both of its sides.
#[test]
fn the_gradient_of_the_dictionary_is_that_of_the_formula() {
    let device = Device::flex().autodiff();
    let (z, d) = (random(5), random(WIDTH) * 0.2);
    let config = WhiteConfig { step: 0.3, sparsity: 0.2, tied_output: false };
    let module = ista(config, Tensor::from_data(d.clone().into_data(), &device));
    let z_there = Tensor::from_data(z.clone().into_data(), &device);
    let ours = module.forward(z_there.clone()).square().sum();
    let weight = module.dictionary.matrix.dense_weight().unwrap_or_else(|| panic!("dense"));
    let ours = weight.grad(&ours.backward()).unwrap_or_else(|| panic!("no gradient"));
    let d = Tensor::<2>::from_data(d.into_data(), &device).require_grad();
    let code =
        z_there.clone().matmul(d.clone()) - z_there.clone().matmul(d.clone().transpose()).matmul(d.clone());
    let loss = activation::relu(z_there + code * 0.3 - 0.3 * 0.2).square().sum();
    let theirs = d.grad(&loss.backward()).unwrap_or_else(|| panic!("no gradient"));
    close(&values(ours), &values(theirs), 1e-4);
}
