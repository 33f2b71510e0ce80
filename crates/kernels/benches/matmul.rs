//! Dense products: `f32` of either transposition, and linear layers with packed weights of 32, 16 and 8 bits.
//! `bench/peers/gemm.py` measures PyTorch at the same sizes.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use whit_kernels::linear::{PackedLinear, WeightType, bfloat16, float32};
use whit_kernels::matmul::{Side, Sizes, multiply};

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 + 11) % 101) as f32 / 101.0 - 0.5).collect()
}

fn throughput(sizes: Sizes) -> Throughput {
    Throughput::Elements(2 * (sizes.rows * sizes.depth * sizes.columns) as u64)
}

fn dense(c: &mut Criterion) {
    let mut group = c.benchmark_group("matmul");
    for (rows, depth, columns) in
        [(256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (2048, 256, 1024), (2048, 256, 2048)]
    {
        let sizes = Sizes { rows, depth, columns };
        let (left, right) = (values(rows * depth), values(depth * columns));
        let mut out = vec![0.0; rows * columns];
        group.throughput(throughput(sizes));
        for name in ["nn", "nt", "tn"] {
            let sides = match name {
                "nn" => (Side::Straight(&left), Side::Straight(&right)),
                "nt" => (Side::Straight(&left), Side::Transposed(&right)),
                _ => (Side::Transposed(&left), Side::Straight(&right)),
            };
            group.bench_function(BenchmarkId::new(name, format!("{rows}x{depth}x{columns}")), |bencher| {
                bencher.iter(|| multiply(sizes, sides.0, sides.1, false, black_box(&mut out)));
            });
        }
    }
    group.finish();
}

fn packed(c: &mut Criterion) {
    let mut group = c.benchmark_group("packed_linear");
    for (rows, inputs, outputs) in [(1, 2048, 2048), (1, 2048, 8192), (256, 2048, 2048), (256, 2048, 8192)] {
        let sizes = Sizes { rows, depth: inputs, columns: outputs };
        let (weight, x) = (values(outputs * inputs), values(rows * inputs));
        let mut out = vec![0.0; rows * outputs];
        let name = format!("{rows}x{inputs}x{outputs}");
        let (wide, short) = (
            float32::Packed::pack(&weight, outputs, inputs),
            bfloat16::Packed::pack(&weight, outputs, inputs),
        );
        group.throughput(throughput(sizes));
        group.bench_function(BenchmarkId::new("f32", &name), |bencher| {
            bencher.iter(|| wide.forward(&x, rows, black_box(&mut out)));
        });
        group.bench_function(BenchmarkId::new("bf16", &name), |bencher| {
            bencher.iter(|| short.forward(&x, rows, black_box(&mut out)));
        });
        for (label, kind) in [("int8", WeightType::Int8), ("q8_0", WeightType::Q8_0)] {
            let Ok(layer) = PackedLinear::pack(&weight, outputs, inputs, kind) else { continue };
            group.bench_function(BenchmarkId::new(label, &name), |bencher| {
                bencher.iter(|| layer.forward(&x, rows, None, black_box(&mut out)));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(600));
    targets = dense, packed
}
criterion_main!(benches);
