//! One token through the linear layers of a model of 7 billion parameters, by type of weight, against f32:
//! `cargo run --release --workspace --example gemv_types`. Types take turns; medians and ratios are printed.

use std::time::Instant;

use whit_kernels::linear::{PackedLinear, WeightType, blocks};

/// Outputs and inputs of attention, up and down projection.
const SHAPES: [(usize, usize); 3] = [(4096, 4096), (11008, 4096), (4096, 11008)];
const TYPES: [WeightType; 6] = [
    WeightType::F32,
    WeightType::Bf16,
    WeightType::Int8,
    WeightType::Q8_0,
    WeightType::Q4_0,
    WeightType::Q4K,
];
const ROUNDS: usize = 15;

/// A layer whose rows repeat, which takes as long as any other.
fn layer(kind: WeightType, outputs: usize, inputs: usize) -> PackedLinear {
    let weight: Vec<f32> = (0..inputs * 32).map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5).collect();
    let layer = match blocks::quantize(kind, &weight) {
        Ok(bytes) => PackedLinear::from_blocks(kind, &bytes.repeat(outputs / 32), outputs, inputs),
        Err(_) => PackedLinear::pack(&weight.repeat(outputs / 32), outputs, inputs, kind),
    };
    layer.expect("a shape that every type can hold")
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    for (outputs, inputs) in SHAPES {
        let layers = TYPES.map(|kind| layer(kind, outputs, inputs));
        let x: Vec<f32> = (0..inputs).map(|i| ((i * 31) % 101) as f32 / 101.0 - 0.5).collect();
        let mut out = vec![0.0; outputs];
        let mut times = TYPES.map(|_| Vec::new());
        for _ in 0..ROUNDS {
            for (layer, times) in layers.iter().zip(&mut times) {
                let start = Instant::now();
                layer.forward(&x, 1, None, &mut out);
                times.push(start.elapsed().as_secs_f64());
            }
        }
        let medians = times.map(median);
        println!("{outputs} x {inputs}, 1 token, {} threads", whit_kernels::parallel::threads());
        for ((kind, layer), time) in TYPES.iter().zip(&layers).zip(medians) {
            println!(
                "  {:6} {:7.2} ms {:5.2} bits a weight {:5.2} times the speed of f32",
                kind.name(),
                1e3 * time,
                8.0 * layer.bytes() as f64 / (outputs * inputs) as f64,
                medians[0] / time
            );
        }
    }
}
