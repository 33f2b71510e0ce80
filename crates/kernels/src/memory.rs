//! How the system's allocator treats the tensors' memory.

/// Asks the allocator to keep what is freed (up to a gigabyte) for the next tensor, instead of giving
/// it back and having every page mapped and cleared again, which takes longer than most kernels take
/// to fill it. Returns whether it was told; there is nothing to tell but glibc.
///
/// Meant for the start of a program. Blocks above 32 MiB still go back at once.
pub fn keep_freed() -> bool {
    told()
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn told() -> bool {
    use std::ffi::c_int;

    const TRIM_THRESHOLD: c_int = -1;
    const MMAP_THRESHOLD: c_int = -3;
    unsafe extern "C" {
        fn mallopt(parameter: c_int, value: c_int) -> c_int;
    }
    // SAFETY: `mallopt` only sets parameters of the allocator, under its own lock.
    unsafe { mallopt(MMAP_THRESHOLD, 32 << 20) == 1 && mallopt(TRIM_THRESHOLD, 1 << 30) == 1 }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn told() -> bool {
    false
}

#[cfg(test)]
mod tests {
    #[test]
    fn glibc_listens() {
        assert_eq!(super::keep_freed(), cfg!(all(target_os = "linux", target_env = "gnu")));
    }
}
