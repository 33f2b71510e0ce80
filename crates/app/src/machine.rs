//! What this machine has, and how fast it is at the two things that everything here is made of.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use whit::burn::tensor::{Device, Distribution, Tensor};
use whit_kernels::{matmul, parallel};

/// The name of the processor; `None` where the system does not say.
pub fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// How fast memory is read by all threads, in bytes a second: the best of a few passes over a buffer
/// that no cache holds.
pub fn read_speed() -> f64 {
    const WORDS: usize = 16 << 20; // 128 MiB
    let buffer = vec![1u64; WORDS];
    let sum = AtomicU64::new(0);
    let pass = || {
        parallel::ranges(WORDS, 1 << 16, |range| {
            let part = buffer[range].iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
            sum.fetch_add(part, Ordering::Relaxed);
        });
    };
    let seconds = best_of(5, pass);
    black_box(sum.into_inner());
    size_of_val(buffer.as_slice()) as f64 / seconds
}

/// How fast `device` multiplies two `f32` matrices, in operations a second.
pub fn product_speed(device: &Device) -> f64 {
    const SIZE: usize = 1024;
    let a = Tensor::<2>::random([SIZE, SIZE], Distribution::Uniform(-1.0, 1.0), device);
    let product = || matmul::linear(a.clone(), a.clone(), None);
    // Reading one value waits for devices that only queue the work.
    let seconds = best_of(6, || drop(black_box(product().slice([0..1, 0..1]).into_data())));
    2.0 * (SIZE * SIZE * SIZE) as f64 / seconds
}

fn best_of(passes: usize, mut pass: impl FnMut()) -> f64 {
    let times = (0..passes).map(|_| {
        let start = Instant::now();
        pass();
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_positive_and_finite() {
        for speed in [read_speed(), product_speed(&Device::flex())] {
            assert!(speed.is_finite() && speed > 0.0);
        }
    }
}
