//! What this machine has, and how fast it is at the two things that everything here is made of.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::Serialize;
use whit::burn::tensor::{Device, Distribution, Tensor};
use whit_kernels::parallel;

/// Main memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// What is built in, or what this process group is limited to if that is less.
    pub total: u64,
    /// What is free or can be freed now.
    pub available: u64,
}

/// The memory of this machine; `None` where the system does not say.
pub fn memory() -> Option<Memory> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let found = parse_meminfo(&text)?;
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse().ok()).unwrap_or(u64::MAX);
    Some(Memory { total: found.total.min(limit), available: found.available.min(limit) })
}

fn parse_meminfo(text: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
        kibibytes.checked_mul(1024)
    };
    Some(Memory { total: field("MemTotal:")?, available: field("MemAvailable:")? })
}

/// The name of the processor; `None` where the system does not say.
pub fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// How fast memory is read by all threads, in bytes a second: the best of a few passes over a buffer
/// that no cache holds.
pub fn read_speed() -> f64 {
    const WORDS: usize = 32 << 20; // 256 MiB
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

/// How fast two `f32` matrices are multiplied, in operations a second.
pub fn product_speed() -> f64 {
    const SIZE: usize = 1024;
    let device = Device::flex();
    let a = Tensor::<2>::random([SIZE, SIZE], Distribution::Uniform(-1.0, 1.0), &device);
    let seconds = best_of(5, || drop(black_box(a.clone().matmul(a.clone()))));
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
    fn meminfo_is_read_and_nonsense_is_not() {
        let text = "MemTotal:       2048 kB\nMemFree:  1 kB\nMemAvailable:   1024 kB\n";
        assert_eq!(parse_meminfo(text), Some(Memory { total: 2 << 20, available: 1 << 20 }));
        for text in ["", "MemTotal: many kB\nMemAvailable: 1 kB", "MemTotal: 99999999999999999999 kB"] {
            assert_eq!(parse_meminfo(text), None);
        }
    }

    #[test]
    fn speeds_are_positive_and_finite() {
        for speed in [read_speed(), product_speed()] {
            assert!(speed.is_finite() && speed > 0.0);
        }
    }
}
