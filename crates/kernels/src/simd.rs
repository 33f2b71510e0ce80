//! Which vector instructions this processor has. Every kernel asks here, once, at run time, so that
//! one binary is safe and fast everywhere.

use std::sync::OnceLock;

/// A set of vector instructions that kernels are written for; later ones include earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Portable Rust, as the compiler vectorises it. On 64-bit Arm this already means NEON.
    Plain,
    /// AVX2 with FMA and F16C (x86-64).
    Avx2,
    /// AVX-512 F, BW, DQ and VL (x86-64).
    Avx512,
}

/// What the processor offers: the level and the extensions that only some kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// The widest level.
    pub level: Level,
    /// AVX-512 VNNI: four 8-bit products a lane and instruction.
    pub vnni: bool,
    /// AVX-512 BF16: two bf16 products a lane and instruction.
    pub bf16: bool,
}

/// The features of this processor, found on the first call.
///
/// The environment variable `WHIT_SIMD` (`plain`, `avx2`, `avx512`) lowers the level, to test the
/// other paths or to rule a kernel out when hunting a difference.
pub fn features() -> Features {
    static FOUND: OnceLock<Features> = OnceLock::new();
    *FOUND.get_or_init(|| limit(detect(), std::env::var("WHIT_SIMD").ok().as_deref()))
}

/// Asks for values that will be read soon, where the processor does not look ahead by itself.
#[inline]
pub(crate) fn prefetch<T>(values: &[T]) {
    for value in values.iter().step_by((64 / size_of::<T>().max(1)).max(1)) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: prefetching has no effect but on the caches; SSE is always there.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = value;
    }
}

/// The level of this processor; see [`features`].
pub fn level() -> Level {
    features().level
}

fn limit(found: Features, wish: Option<&str>) -> Features {
    let top = match wish {
        Some("plain") => Level::Plain,
        Some("avx2") => Level::Avx2,
        _ => Level::Avx512,
    };
    let level = found.level.min(top);
    let wide = level == Level::Avx512;
    Features { level, vnni: found.vnni && wide, bf16: found.bf16 && wide }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Features {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let level = match (avx512, avx2) {
        (true, _) => Level::Avx512,
        (false, true) => Level::Avx2,
        _ => Level::Plain,
    };
    Features {
        level,
        vnni: avx512 && is_x86_feature_detected!("avx512vnni"),
        bf16: avx512 && is_x86_feature_detected!("avx512bf16"),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Features {
    Features { level: Level::Plain, vnni: false, bf16: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_only_lowers() {
        let all = Features { level: Level::Avx512, vnni: true, bf16: true };
        let none = Features { level: Level::Plain, vnni: false, bf16: false };
        assert_eq!(limit(all, None), all);
        assert_eq!(limit(all, Some("avx2")), Features { level: Level::Avx2, vnni: false, bf16: false });
        assert_eq!(limit(none, Some("avx512")), none);
    }
}
