//! The feed-forward block of BlockFFN at the sizes of the 2.8B model, with an eighth of the experts open
//! for each token (31 % for 32 tokens together), beside the dense block.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use whit_kernels::block_ffn::{Packed, Reach, Sizes, gated_in_place};
use whit_kernels::linear::{PackedLinear, WeightType};

const SIZES: Sizes = Sizes { experts: 128, size: 128, width: 2048 };

fn block(criterion: &mut Criterion) {
    let Sizes { experts, size, width } = SIZES;
    let values = |count: usize| -> Vec<f32> { (0..count).map(|i| (i as f32 * 0.7).sin()).collect() };
    let weights = values(experts * size * width);
    for kind in [WeightType::F32, WeightType::Bf16, WeightType::Q8_0] {
        let pack = |outputs, inputs| PackedLinear::pack(&weights, outputs, inputs, kind);
        let (Ok(up), Ok(down)) = (pack(experts * size, width), pack(width, experts * size)) else { continue };
        let Ok(packed) = Packed::pack(&weights, &weights, SIZES, kind) else { continue };
        let mut group = criterion.benchmark_group(format!("block_ffn/{kind}"));
        group.sample_size(10);
        for (rows, union) in [(1, 16), (32, 40)] {
            let x = values(rows * width);
            let (mut inner, mut out) = (vec![0.0; rows * experts * size], vec![0.0; rows * width]);
            let open = |at: usize| {
                (at % experts + union - at / experts % union) % union < 16 && at % experts < union
            };
            let gates: Vec<f32> = (0..rows * experts).map(|at| f32::from(u8::from(open(at)))).collect();
            group.bench_function(BenchmarkId::new("sparse", rows), |bencher| {
                bencher.iter(|| packed.forward(black_box(&x), &gates, &Reach::Active, &mut out));
            });
            group.bench_function(BenchmarkId::new("dense", rows), |bencher| {
                bencher.iter(|| {
                    up.forward(black_box(&x), rows, None, &mut inner);
                    gated_in_place(&mut inner, &gates, experts);
                    down.forward(&inner, rows, None, &mut out);
                });
            });
        }
    }
}

criterion_group!(benches, block);
criterion_main!(benches);
