//! Convolutions of the sizes that image models have, forward with packed weights and in training.
//! `bench/peers/gemm.py` measures PyTorch at the same sizes.

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use whit_kernels::conv2d::{Options, PackedConv, Precision, conv2d};

/// A square image and a square kernel.
struct Case {
    channels: usize,
    outputs: usize,
    size: usize,
    kernel: usize,
    stride: usize,
}

impl Case {
    fn all() -> [Self; 5] {
        let case = |channels, outputs, size, kernel, stride| Self { channels, outputs, size, kernel, stride };
        [
            case(320, 320, 64, 3, 1),
            case(128, 128, 256, 3, 1),
            case(320, 320, 64, 1, 1),
            case(320, 320, 64, 3, 2),
            case(640, 640, 16, 3, 1),
        ]
    }

    fn name(&self) -> String {
        let Self { channels, outputs, size, kernel, stride } = self;
        format!("{channels}x{size}x{size}-{outputs}-k{kernel}-s{stride}")
    }

    fn options(&self) -> Options {
        Options::square(self.stride, self.kernel / 2)
    }

    fn throughput(&self, passes: usize) -> Throughput {
        let pixels = (self.size / self.stride).pow(2);
        let each = self.channels * self.outputs * self.kernel * self.kernel;
        Throughput::Elements(2 * (passes * pixels * each) as u64)
    }
}

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 + 11) % 101) as f32 / 101.0 - 0.5).collect()
}

fn inference(c: &mut Criterion) {
    let mut group = c.benchmark_group("conv2d");
    for case in Case::all() {
        let shape = [1, case.channels, case.size, case.size];
        let weight_shape = [case.outputs, case.channels, case.kernel, case.kernel];
        let (x, weight) = (values(shape.iter().product()), values(weight_shape.iter().product()));
        group.throughput(case.throughput(1));
        for (name, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
            let packed = PackedConv::new(&weight, weight_shape, None, case.options(), precision);
            let mut out = vec![0.0; packed.output_shape(shape).iter().product()];
            group.bench_function(BenchmarkId::new(name, case.name()), |bencher| {
                bencher.iter(|| packed.forward(&x, shape, black_box(&mut out)));
            });
        }
    }
    group.finish();
}

fn training(c: &mut Criterion) {
    let mut group = c.benchmark_group("conv2d_training");
    let device = Device::flex().autodiff();
    let random = |shape: [usize; 4]| {
        Tensor::<4>::random(shape, Distribution::Uniform(-1.0, 1.0), &device).require_grad()
    };
    for case in Case::all() {
        let x = random([1, case.channels, case.size, case.size]);
        let weight = random([case.outputs, case.channels, case.kernel, case.kernel]);
        group.throughput(case.throughput(3));
        group.bench_function(BenchmarkId::new("f32", case.name()), |bencher| {
            bencher.iter(|| {
                let y = conv2d(x.clone(), weight.clone(), None, case.options());
                let gradients = y.sum().backward();
                black_box((x.grad(&gradients), weight.grad(&gradients)))
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(600));
    targets = inference, training
}
criterion_main!(benches);
