//! How much memory there is, and how much this process has used.

/// The bytes that can be allocated without swapping, where the system says.
pub fn available() -> Option<u64> {
    field("/proc/meminfo", "MemAvailable:")
}

/// All the memory of the machine in bytes, where the system says.
pub fn total() -> Option<u64> {
    field("/proc/meminfo", "MemTotal:")
}

/// The most memory in bytes that this process has held at once, where the system says.
pub fn peak() -> Option<u64> {
    field("/proc/self/status", "VmHWM:")
}

fn field(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_in_order() {
        let (free, all, used) = (available(), total(), peak());
        assert!(free <= all && used <= all && used > Some(100_000), "{free:?} {all:?} {used:?}");
    }
}
