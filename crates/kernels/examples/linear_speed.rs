//! Speed of the packed linear layers: `cargo run --release -p whit-kernels --example linear_speed [type...]`.

use std::time::Instant;

use whit_kernels::linear::{PackedLinear, WeightType};

const SHAPES: [(usize, usize); 3] = [(2048, 8192), (8192, 2048), (128_256, 2048)];
const ROWS: [usize; 9] = [2, 4, 8, 12, 16, 32, 81, 256, 512];

fn seconds(mut work: impl FnMut()) -> f64 {
    work();
    let mut best = f64::MAX;
    let start = Instant::now();
    let mut runs = 0;
    while runs < 3 || (start.elapsed().as_secs_f64() < 0.15 && runs < 200) {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

fn main() {
    let kinds: Vec<WeightType> = std::env::args().skip(1).filter_map(|name| name.parse().ok()).collect();
    for kind in kinds {
        for (outputs, inputs) in SHAPES {
            let weight: Vec<f32> =
                (0..outputs * inputs).map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5).collect();
            let start = Instant::now();
            let layer = PackedLinear::pack(&weight, outputs, inputs, kind).expect("a shape that fits");
            let packing = start.elapsed().as_secs_f64();
            drop(weight);
            let mut out = vec![0.0; outputs * 512];
            let x: Vec<f32> = (0..inputs * 512).map(|i| ((i * 31) % 101) as f32 / 101.0 - 0.5).collect();
            let one = seconds(|| layer.forward(&x[..inputs], 1, None, &mut out[..outputs]));
            print!(
                "{kind:5} {outputs:6}x{inputs:5} pack {packing:5.2}s t1 {:8.1} us {:5.1} GB/s |",
                one * 1e6,
                layer.bytes() as f64 / one / 1e9
            );
            for rows in ROWS {
                if outputs > 100_000 && rows > 16 {
                    continue;
                }
                let time =
                    seconds(|| layer.forward(&x[..rows * inputs], rows, None, &mut out[..rows * outputs]));
                print!(
                    " {rows}: {:4.0} GF {:4.1}x |",
                    2.0 * (rows * outputs * inputs) as f64 / time / 1e9,
                    time / one
                );
            }
            println!();
        }
    }
}
