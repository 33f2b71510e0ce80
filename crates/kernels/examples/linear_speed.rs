//! Speed of the packed linear layers, each shape in so many copies that no cache holds them:
//! `cargo run --release -p whit-kernels --example linear_speed -- q4_k q8_0`.

use std::time::Instant;

use whit_kernels::linear::{PackedLinear, WeightType, blocks};

const SHAPES: [(usize, usize); 3] = [(8192, 2048), (2048, 8192), (128_256, 2048)];
const ROWS: [usize; 11] = [2, 3, 4, 6, 8, 12, 16, 32, 81, 256, 512];
/// Bytes of weights that are read before any is read again.
const STREAM: usize = 300 << 20;

fn least(mut work: impl FnMut() -> usize) -> f64 {
    let (mut best, mut runs) = (f64::MAX, 0);
    let start = Instant::now();
    while runs < 5 || (start.elapsed().as_secs_f64() < 0.3 && runs < 500) {
        let start = Instant::now();
        let count = work();
        best = best.min(start.elapsed().as_secs_f64() / count as f64);
        runs += 1;
    }
    best
}

fn layer(kind: WeightType, outputs: usize, inputs: usize) -> PackedLinear {
    let weight: Vec<f32> = (0..inputs * 64).map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5).collect();
    let layer = match blocks::quantize(kind, &weight) {
        Ok(bytes) => PackedLinear::from_blocks(kind, &bytes.repeat(outputs / 64), outputs, inputs),
        Err(_) => PackedLinear::pack(&weight.repeat(outputs / 64), outputs, inputs, kind),
    };
    layer.expect("a shape that every type can hold")
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let few = arguments.first().is_some_and(|first| first == "few");
    if few { arguments.remove(0); }
    for kind in arguments.iter().filter_map(|name| name.parse::<WeightType>().ok()) {
        for (outputs, inputs) in SHAPES {
            let first = layer(kind, outputs, inputs);
            let copies = STREAM.div_ceil(first.bytes());
            let layers: Vec<_> = (0..copies).map(|_| layer(kind, outputs, inputs)).collect();
            let mut out = vec![0.0; outputs * 512];
            let x: Vec<f32> = (0..inputs * 512).map(|i| ((i * 31) % 101) as f32 / 101.0 - 0.5).collect();
            let mut time = |rows: usize, layers: &[PackedLinear]| {
                least(|| {
                    for layer in layers {
                        layer.forward(&x[..rows * inputs], rows, None, &mut out[..rows * outputs]);
                    }
                    layers.len()
                })
            };
            let one = time(1, &layers);
            print!("{kind:5} {outputs:6}x{inputs:5} {:7.0} us {:5.1} GB/s |", one * 1e6, first.bytes() as f64 / one / 1e9);
            for rows in ROWS {
                if (outputs > 100_000 && rows > 16) || (few && ![4, 8, 81, 256].contains(&rows)) {
                    continue;
                }
                let layers = if rows > 16 { &layers[..1] } else { &layers[..] };
                let time = time(rows, layers);
                print!(" {rows}: {:.0} GF {:.2}x |", 2.0 * (rows * outputs * inputs) as f64 / time / 1e9, time / one);
            }
            println!();
        }
    }
}
