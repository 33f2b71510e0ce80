//! The feed-forward block of BlockFFN beside a dense one of the same matrices, at the sizes of the
//! 2.8B model: `cargo run --release -p whit-kernels --example block_ffn -- f32 bf16 q8_0`.
//!
//! Weights are random, since time does not depend on them, and gates are drawn so that a given share of
//! the experts is open for each token and for all of them together. Sparse and dense take turns; each
//! works on copies enough that no cache holds them. Medians, and the ratio of sparse to dense.

use std::time::Instant;

use whit_kernels::block_ffn::{Packed, Reach, Sizes, gated_in_place};
use whit_kernels::linear::{PackedLinear, WeightType};

const SIZES: Sizes = Sizes { experts: 128, size: 128, width: 2048 };
/// Tokens, the share of experts of each, and the share of all together.
const CASES: [(usize, f64, f64); 6] = [
    (1, 0.125, 0.125),
    (1, 1.0, 1.0),
    (32, 0.125, 0.31),
    (32, 1.0, 1.0),
    (81, 0.125, 0.45),
    (512, 0.125, 1.0),
];
/// Bytes of weights that are read before any is read again.
const STREAM: usize = 256 << 20;

/// The same matrices as two layers.
struct Dense {
    up: PackedLinear,
    down: PackedLinear,
}

impl Dense {
    fn forward(&self, x: &[f32], gates: &[f32], inner: &mut [f32], out: &mut [f32]) {
        let rows = x.len() / SIZES.width;
        self.up.forward(x, rows, None, inner);
        gated_in_place(inner, gates, SIZES.experts);
        self.down.forward(inner, rows, None, out);
    }
}

/// Pseudo-random values in (-1, 1).
fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + 13) % 2003) as f32 / 1001.5 - 1.0).collect()
}

/// Gates of which each token opens `each` out of the first `all` experts.
fn gates(rows: usize, each: usize, all: usize) -> Vec<f32> {
    let mut gates = vec![0.0; rows * SIZES.experts];
    for (row, gates) in gates.chunks_exact_mut(SIZES.experts).enumerate() {
        // Spread over the block, and shifted so that together the tokens open exactly `all`.
        (0..each)
            .for_each(|i| gates[(row * each / 2 + i) % all * 37 % SIZES.experts] = 1.0 + i as f32 / 64.0);
    }
    gates
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Median seconds of `first` and `second` by turns.
fn pair(mut first: impl FnMut(usize), mut second: impl FnMut(usize)) -> [f64; 2] {
    let mut times = [Vec::new(), Vec::new()];
    let start = Instant::now();
    while times[0].len() < 7 || (start.elapsed().as_secs_f64() < 2.0 && times[0].len() < 60) {
        let turn = times[0].len();
        let works: [&mut dyn FnMut(usize); 2] = [&mut first, &mut second];
        for (work, times) in works.into_iter().zip(&mut times) {
            let start = Instant::now();
            work(turn);
            times.push(start.elapsed().as_secs_f64());
        }
    }
    times.map(median)
}

fn compare(kind: WeightType) {
    let Sizes { experts, size, width } = SIZES;
    let weights = values(experts * size * width);
    let bytes = 2 * kind.bytes_of(weights.len() as u64) as usize;
    let copies = STREAM.div_ceil(bytes);
    let pack = |outputs, inputs| PackedLinear::pack(&weights, outputs, inputs, kind);
    let mut dense = Vec::new();
    let mut sparse = Vec::new();
    for _ in 0..copies {
        dense.extend(
            pack(experts * size, width).and_then(|up| Ok(Dense { up, down: pack(width, experts * size)? })),
        );
        sparse.extend(Packed::pack(&weights, &weights, SIZES, kind));
    }
    for (rows, each, all) in CASES {
        let count = |share: f64| (share * experts as f64).round() as usize;
        let (x, gates) = (values(rows * width), gates(rows, count(each), count(all)));
        let (mut a, mut b) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        let mut inner = vec![0.0; rows * experts * size];
        let mut touched = Default::default();
        let times = pair(
            |turn| {
                touched =
                    sparse[turn % copies].forward(&x, &gates, &Reach::Active, &mut a).unwrap_or_default()
            },
            |turn| dense[turn % copies].forward(&x, &gates, &mut inner, &mut b),
        );
        let reads = rows.div_ceil(128) * experts;
        println!(
            "{kind:5} {rows:4} tokens, {:5.1} % open each, {:5.1} % read: sparse {:8.3} ms, dense {:8.3} ms, {:5.1} %; off by {:.0e}",
            100.0 * touched.pairs as f64 / (rows * experts) as f64,
            100.0 * touched.experts as f64 / reads as f64,
            1e3 * times[0],
            1e3 * times[1],
            100.0 * times[0] / times[1],
            distance(&a, &b),
        );
    }
}

/// The largest difference, relative to the largest value.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let most = b.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    a.iter().zip(b).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs())) / most
}

fn main() {
    println!("{} threads, {SIZES:?}", whit_kernels::parallel::threads());
    std::env::args().skip(1).filter_map(|name| name.parse().ok()).for_each(compare);
}
