//! The packed linear layers of every type: one row (bytes of weights a second) and many rows
//! (multiplications a second; two operations each). `sparse` has half of the weights of `linear`, two
//! of every four or anywhere.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use whit_kernels::linear::{PackedLinear, Pattern, WeightType};

const OUTPUTS: usize = 8192;
const INPUTS: usize = 2048;

fn linear(criterion: &mut Criterion) {
    let values = |count: usize| -> Vec<f32> { (0..count).map(|i| (i as f32 * 0.7).sin()).collect() };
    let (weight, x) = (values(OUTPUTS * INPUTS), values(INPUTS * 256));
    for kind in WeightType::ALL {
        let Ok(layer) = PackedLinear::pack(&weight, OUTPUTS, INPUTS, kind) else { continue };
        measure(criterion, &format!("linear/{kind}"), &layer, &x);
    }
    let halved: Vec<f32> = weight.iter().enumerate().map(|(i, &w)| if i % 4 < 2 { w } else { 0.0 }).collect();
    for kind in [WeightType::F32, WeightType::Bf16, WeightType::Int8] {
        for pattern in [Pattern::TwoFour, Pattern::Bitmap] {
            let packed = PackedLinear::pack_sparse(&halved, OUTPUTS, INPUTS, kind, pattern);
            let Ok(layer) = packed else { continue };
            measure(criterion, &format!("sparse/{kind}/{pattern}"), &layer, &x);
        }
    }
}

fn measure(criterion: &mut Criterion, name: &str, layer: &PackedLinear, x: &[f32]) {
    let mut out = vec![0.0; OUTPUTS * 256];
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    for rows in [1, 8, 32, 256] {
        let work = if rows == 1 {
            Throughput::Bytes(layer.bytes() as u64)
        } else {
            Throughput::Elements((OUTPUTS * INPUTS * rows) as u64)
        };
        group.throughput(work).bench_function(BenchmarkId::from_parameter(rows), |bencher| {
            let (x, out) = (&x[..rows * INPUTS], &mut out[..rows * OUTPUTS]);
            bencher.iter(|| layer.forward(black_box(x), rows, None, out));
        });
    }
}

criterion_group!(benches, linear);
criterion_main!(benches);
