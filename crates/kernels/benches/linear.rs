//! The packed linear layers of every type: one row (bytes of weights a second) and many rows
//! (multiplications a second; two operations each).

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use whit_kernels::linear::{PackedLinear, WeightType};

const OUTPUTS: usize = 8192;
const INPUTS: usize = 2048;

fn linear(criterion: &mut Criterion) {
    let values = |count: usize| -> Vec<f32> { (0..count).map(|i| (i as f32 * 0.7).sin()).collect() };
    let (weight, x) = (values(OUTPUTS * INPUTS), values(INPUTS * 256));
    let mut out = vec![0.0; OUTPUTS * 256];
    for kind in WeightType::ALL {
        let Ok(layer) = PackedLinear::pack(&weight, OUTPUTS, INPUTS, kind) else { continue };
        let mut group = criterion.benchmark_group(format!("linear/{kind}"));
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
}

criterion_group!(benches, linear);
criterion_main!(benches);
