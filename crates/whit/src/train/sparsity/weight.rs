//! The weight of chunk sparsification, which grows while its loss does not fall.

use serde::{Deserialize, Serialize};

/// The least that a rising loss raises the weight by.
const LEAST: f32 = 1.025;

/// The most that the weight grows to, in multiples of its start. The paper's formula has no bound, its
/// code has this one.
const MOST: f32 = 4.0;

/// After `hold` steps, every `period` steps the mean loss of the last period is compared with that of
/// the one before. Over the next period the weight moves in a line towards its product with their
/// ratio, which counts as at least 1.025 where it is above one (section 3.2 of the paper).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChunkWeight {
    start: f32,
    hold: u64,
    period: u64,
    /// The weight at the beginning of this period and at its end.
    ends: [f32; 2],
    /// The number of the period.
    window: u64,
    /// The sum and the number of this period's losses.
    sum: f32,
    count: u64,
    /// The mean loss of the last period.
    previous: Option<f32>,
}

impl ChunkWeight {
    /// A weight that starts at `start`.
    pub fn new(start: f32, hold: u64, period: u64) -> Self {
        let period = period.max(1);
        Self { start, hold, period, ends: [start; 2], window: 0, sum: 0.0, count: 0, previous: None }
    }

    /// The weight for step `step`, whose loss is `loss`; steps come in order.
    pub fn at(&mut self, step: u64, loss: f32) -> f32 {
        if step / self.period != self.window {
            self.turn(step);
        }
        self.sum += loss;
        self.count += 1;
        let done = (step % self.period) as f32 / self.period as f32;
        self.ends[0] + (self.ends[1] - self.ends[0]) * done
    }

    /// Begins the period that `step` is in.
    fn turn(&mut self, step: u64) {
        let mean = self.sum / self.count.max(1) as f32;
        let ratio = match self.previous {
            Some(previous) if step >= self.hold && previous > 0.0 => mean / previous,
            _ => 1.0,
        };
        let ratio = if ratio > 1.0 { ratio.max(LEAST) } else { ratio };
        self.ends = [self.ends[1], (self.ends[1] * ratio).min(self.start * MOST)];
        self.previous = Some(mean);
        (self.sum, self.count, self.window) = (0.0, 0, step / self.period);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The weights at the first step of each period and in its middle, for one loss a period.
    fn script(losses: &[f32], hold: u64) -> Vec<[f32; 2]> {
        let mut weight = ChunkWeight::new(0.1, hold, 4);
        let period = |(number, loss): (usize, &f32)| {
            let found: Vec<f32> = (0..4).map(|step| weight.at(4 * number as u64 + step, *loss)).collect();
            [found[0], found[2]]
        };
        losses.iter().enumerate().map(period).collect()
    }

    fn near(found: &[[f32; 2]], wanted: &[[f32; 2]]) {
        for (found, wanted) in found.iter().flatten().zip(wanted.iter().flatten()) {
            assert!((found - wanted).abs() < 1e-6, "{found} instead of {wanted}");
        }
    }

    #[test]
    fn it_follows_a_scripted_loss() {
        // Held in the first two periods. Then the loss halves (x 0.5), doubles (x 2), stays (x 1), and
        // rises by a hundredth (x 1.025).
        let found = script(&[0.8, 0.4, 0.8, 0.8, 0.808, 0.5], 8);
        let wanted = [[0.1, 0.1], [0.1, 0.1], [0.1, 0.075], [0.05, 0.075], [0.1, 0.1], [0.1, 0.10125]];
        near(&found, &wanted);
    }

    #[test]
    fn it_is_bounded() {
        let found = script(&[0.01, 0.1, 1.0, 10.0], 0);
        near(&found, &[[0.1, 0.1], [0.1, 0.1], [0.1, 0.25], [0.4, 0.4]]);
    }

    #[test]
    fn it_goes_on_from_its_memory() {
        let mut weight = ChunkWeight::new(0.05, 3, 5);
        for step in 0..17 {
            weight.at(step, (step as f32 * 0.7).sin() + 2.0);
        }
        let text = serde_json::to_string(&weight).unwrap();
        assert_eq!(serde_json::from_str::<ChunkWeight>(&text).unwrap(), weight);
    }
}
