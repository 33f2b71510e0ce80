//! The learning rate over a run.

use std::f32::consts::PI;

use serde::{Deserialize, Serialize};

/// A linear warm-up, then half a cosine from the peak to the floor (Loshchilov & Hutter,
/// arXiv:1608.03983, without restarts).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// The highest learning rate, reached at the end of the warm-up.
    pub peak: f32,
    /// The learning rate of the last step.
    pub floor: f32,
    /// Steps of the warm-up.
    pub warm_up: u64,
    /// Steps in all.
    pub steps: u64,
}

impl Schedule {
    /// The learning rate of `step`, counted from 0.
    pub fn at(&self, step: u64) -> f32 {
        if step < self.warm_up {
            return self.peak * (step + 1) as f32 / self.warm_up as f32;
        }
        let span = self.steps.saturating_sub(self.warm_up + 1).max(1);
        let done = ((step - self.warm_up) as f32 / span as f32).min(1.0);
        self.floor + (self.peak - self.floor) * 0.5 * (1.0 + (PI * done).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_to_the_peak_and_falls_to_the_floor() {
        let schedule = Schedule { peak: 1.0, floor: 0.1, warm_up: 4, steps: 13 };
        assert_eq!([0, 1, 2, 3].map(|step| schedule.at(step)), [0.25, 0.5, 0.75, 1.0]);
        assert_eq!(schedule.at(4), 1.0);
        assert!((schedule.at(8) - 0.55).abs() < 1e-6);
        assert!((schedule.at(12) - 0.1).abs() < 1e-6);
        assert!((schedule.at(1000) - 0.1).abs() < 1e-6);
    }

    #[test]
    fn a_run_shorter_than_its_warm_up_is_no_error() {
        let schedule = Schedule { peak: 1.0, floor: 0.0, warm_up: 10, steps: 2 };
        assert!((0..20).all(|step| schedule.at(step).is_finite()));
    }
}
