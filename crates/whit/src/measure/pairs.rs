//! Timing several ways of doing the same thing so that a disturbance hits all of them: each round runs
//! every one once, and the order turns from round to round.

use std::fmt;

/// The median, and the distance between the quartiles as a share of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Spread {
    /// The middle value.
    pub median: f64,
    /// The distance between the quartiles, divided by the median.
    pub spread: f64,
}

impl Spread {
    /// Of some values; zero of none.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (sorted.len() - 1) as f64;
            let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
            low + (high - low) * place.fract()
        };
        if sorted.is_empty() {
            return Self::default();
        }
        let median = at(0.5);
        Self { median, spread: if median == 0.0 { 0.0 } else { (at(0.75) - at(0.25)) / median } }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ± {:.2}", self.median, self.spread * self.median / 2.0)
    }
}

/// Runs `count` variants for `rounds` rounds, interleaved; gives each variant's results in order.
///
/// # Errors
/// The first error of `run`.
pub fn interleave<T, E>(
    count: usize,
    rounds: usize,
    mut run: impl FnMut(usize) -> Result<T, E>,
) -> Result<Vec<Vec<T>>, E> {
    let mut results: Vec<Vec<T>> = (0..count).map(|_| Vec::with_capacity(rounds)).collect();
    for round in 0..rounds {
        for turn in 0..count {
            let variant = (turn + round) % count;
            results[variant].push(run(variant)?);
        }
    }
    Ok(results)
}

/// The median of the ratios `base / other` of runs of the same round.
pub fn ratio(base: &[f64], other: &[f64]) -> Spread {
    let ratios: Vec<f64> =
        base.iter().zip(other).filter(|(_, other)| **other > 0.0).map(|(a, b)| a / b).collect();
    Spread::of(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_runs_in_every_round_and_the_order_turns() {
        let mut order = Vec::new();
        let results = interleave(3, 2, |variant| {
            order.push(variant);
            Ok::<_, ()>(order.len())
        });
        assert_eq!(order, [0, 1, 2, 1, 2, 0]);
        assert_eq!(results, Ok(vec![vec![1, 6], vec![2, 4], vec![3, 5]]));
    }

    #[test]
    fn the_median_shrugs_off_an_outlier() {
        let found = Spread::of(&[1.0, 100.0, 1.0, 1.0, 1.2]);
        assert_eq!((found.median, found.spread), (1.0, 0.19999999999999996));
        assert_eq!(Spread::of(&[]), Spread::default());
        assert_eq!(ratio(&[2.0, 4.0, 9.0], &[1.0, 2.0, 3.0]).median, 2.0);
    }
}
