//! Honest numbers: what a run cost, what it gave, and against which baseline.

pub mod attention;
pub mod coding_rate;
pub mod collapse;
pub mod collapse_sweep;
pub mod cost;
pub mod macs;
pub mod memory;
pub mod overlap;
pub mod pairs;
pub mod pareto;
pub mod quality;
pub mod recall;
pub mod record;
pub mod reuse;
pub mod sheet;
pub mod stepwise;
pub mod text;
pub mod vision;
pub mod write;

/// A number of bytes for people: `1.5 GiB`.
pub fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_read_well() {
        assert_eq!(super::bytes(17), "17 B");
        assert_eq!(super::bytes(3 << 29), "1.5 GiB");
    }
}
