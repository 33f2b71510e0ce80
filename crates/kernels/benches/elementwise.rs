//! Activations, softmax, norms, rotary, cross-entropy and the optimiser, on tensors as a model calls
//! them. `bench/peers/elementwise.py` measures PyTorch at the same shapes.

use std::hint::black_box;
use std::time::Duration;

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use whit_kernels::rotary::Style;
use whit_kernels::{activation, adamw, cross_entropy, norm, rotary, softmax};

const SHAPES: [[usize; 2]; 3] = [[512, 3072], [8192, 512], [512, 2048]];

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

type Unary = Box<dyn Fn(Tensor<2>) -> Tensor<2>>;

/// The functions of one tensor of `width`, by name.
fn functions(width: usize, device: &Device) -> Vec<(&'static str, Unary)> {
    let (weight, bias) = (random([width], device), random([width], device));
    let rms_weight = weight.clone();
    vec![
        ("gelu", Box::new(activation::gelu)),
        ("gelu_tanh", Box::new(activation::gelu_tanh)),
        ("silu", Box::new(activation::silu)),
        ("softmax", Box::new(softmax::softmax)),
        ("log_softmax", Box::new(softmax::log_softmax)),
        ("layer_norm", Box::new(move |x| norm::layer_norm(x, weight.clone(), Some(bias.clone()), 1e-5))),
        ("rms_norm", Box::new(move |x| norm::rms_norm(x, rms_weight.clone(), 1e-5))),
    ]
}

/// Measures single runs, so that the fastest of them stands for an undisturbed machine.
fn measure<T>(c: &mut Criterion, function: &str, shape: &str, mut run: impl FnMut() -> T) {
    let mut group = c.benchmark_group(function);
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function(shape, |bencher| bencher.iter(|| black_box(run())));
    group.finish();
}

fn inference(c: &mut Criterion) {
    let device = Device::flex();
    for shape in SHAPES {
        let name = format!("{}x{}", shape[0], shape[1]);
        let (x, y) = (random(shape, &device), random(shape, &device));
        for (function, run) in functions(shape[1], &device) {
            measure(c, function, &name, || run(x.clone()));
        }
        let weight = random([shape[1]], &device);
        measure(c, "silu_mul", &name, || activation::silu_mul(x.clone(), y.clone()));
        measure(c, "add_rms_norm", &name, || norm::add_rms_norm(x.clone(), y.clone(), weight.clone(), 1e-5));
    }
}

fn training(c: &mut Criterion) {
    let device = Device::flex().autodiff();
    for shape in SHAPES {
        let name = format!("{}x{}", shape[0], shape[1]);
        let x = random(shape, &device).require_grad();
        for (function, run) in functions(shape[1], &device) {
            measure(c, &format!("{function}_training"), &name, || run(x.clone()).sum().backward());
        }
        let targets: Vec<u32> = (0..shape[0]).map(|row| (row * 7 % shape[1]) as u32).collect();
        measure(c, "cross_entropy_training", &name, || {
            cross_entropy::cross_entropy(x.clone(), &targets, None).backward()
        });
    }
}

fn others(c: &mut Criterion) {
    let device = Device::flex();
    let image = random([1, 320, 64, 64], &device);
    let (weight, bias) = (random([320], &device), random([320], &device));
    measure(c, "group_norm_silu", "320x64x64", || {
        norm::group_norm_silu(image.clone(), 32, weight.clone(), bias.clone(), 1e-5)
    });
    let (heads, cos, sin) =
        (random([512, 32, 64], &device), random([512, 32], &device), random([512, 32], &device));
    for (name, style) in [("halves", Style::Halves), ("interleaved", Style::Interleaved)] {
        measure(c, &format!("rotary_{name}"), "512x32x64", || {
            rotary::apply(heads.clone(), cos.clone(), sin.clone(), style)
        });
    }
    let count = 1 << 22;
    let (mut parameter, mut m, mut v) = (vec![0.1; count], vec![0.0; count], vec![0.0; count]);
    let gradient: Vec<f32> = (0..count).map(|i| (i % 7) as f32 - 3.0).collect();
    let step = adamw::Step {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.99,
        epsilon: 1e-8,
        weight_decay: 0.1,
        count: 2,
    };
    measure(c, "adamw", "4194304", || adamw::step(&mut parameter, &gradient, &mut m, &mut v, &step));
}

fn quick() -> Criterion {
    Criterion::default()
        .sample_size(100)
        .warm_up_time(Duration::from_millis(30))
        .measurement_time(Duration::from_millis(100))
}

criterion_group! {
    name = benches;
    config = quick();
    targets = inference, training, others
}
criterion_main!(benches);
