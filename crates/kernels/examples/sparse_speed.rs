//! Sparse linear layers beside dense ones of the same type, at the shapes of a model of 7 billion
//! weights, in turns: `cargo run --release --workspace --example sparse_speed`. Every row is a median of
//! the dense time over the sparse time; each layer is copied so often that no cache holds it.

use std::time::Instant;

use whit_kernels::linear::{PackedLinear, Pattern, WeightType};

const SHAPES: [(usize, usize); 2] = [(4096, 4096), (4096, 11008)];
const ROWS: [usize; 4] = [1, 4, 16, 128];
/// Bytes of dense weights that are read before any is read again.
const STREAM: usize = 200 << 20;
const ROUNDS: usize = 7;

/// Weights of which `share` are zero; with 2:4, half of every four.
fn weights(count: usize, share: f64, pattern: Pattern) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    let weight = |index: usize, value: f64, chance: f64| match pattern {
        Pattern::TwoFour if (index / 4 + index) % 4 < 2 => 0.0,
        Pattern::Bitmap if chance < share => 0.0,
        _ => value as f32 + 0.01,
    };
    (0..count).map(|index| weight(index, next(), next())).collect()
}

/// Seconds of one pass over some copies of a layer.
fn time(layers: &[PackedLinear], rows: usize, x: &[f32], out: &mut [f32]) -> f64 {
    let (start, mut done) = (Instant::now(), 0);
    while done < layers.len() && (done < 2 || start.elapsed().as_secs_f64() < 0.2) {
        layers[done].forward(x, rows, None, out);
        done += 1;
    }
    start.elapsed().as_secs_f64() / done as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn compare(kind: WeightType, (outputs, inputs): (usize, usize), share: f64, pattern: Pattern) {
    let weight = weights(outputs * inputs, share, pattern);
    let dense = || PackedLinear::pack(&weight, outputs, inputs, kind).expect("any shape fits");
    let sparse = || PackedLinear::pack_sparse(&weight, outputs, inputs, kind, pattern);
    let Ok(first) = sparse() else { return };
    let copies = STREAM.div_ceil(dense().bytes());
    let dense: Vec<_> = (0..copies).map(|_| dense()).collect();
    let sparse: Vec<_> = (0..copies).filter_map(|_| sparse().ok()).collect();
    let bytes = first.bytes() as f64 / dense[0].bytes() as f64;
    print!("{kind:4} {pattern:6} {:2.0}% zeros {outputs}x{inputs:5} bytes {bytes:.2} |", 100.0 * share);
    for rows in ROWS {
        let x: Vec<f32> = (0..rows * inputs).map(|i| ((i * 31) % 101) as f32 / 101.0 - 0.5).collect();
        let mut out = vec![0.0; rows * outputs];
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            let slow = time(&dense, rows, &x, &mut out);
            ratios.push(slow / time(&sparse, rows, &x, &mut out));
        }
        print!(" {rows}: {:.2}x", median(ratios));
    }
    println!();
}

fn main() {
    println!("how many times as fast as dense, for 1, 4, 16 and 128 rows");
    for kind in [WeightType::F32, WeightType::Bf16, WeightType::Int8] {
        SHAPES.iter().for_each(|&shape| compare(kind, shape, 0.5, Pattern::TwoFour));
        for share in [0.3, 0.5, 0.7, 0.9] {
            compare(kind, SHAPES[0], share, Pattern::Bitmap);
        }
    }
}
