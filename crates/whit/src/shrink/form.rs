//! How a changed matrix can be stored.

use whit_kernels::parallel;

/// How the values of a matrix can be stored without loss.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Form {
    /// As plain numbers.
    #[default]
    Dense,
    /// As integers with a scale and a zero for each group.
    Levels(Levels),
    /// As the numbers that are not zero and where they are.
    Sparse {
        /// Bits a weight in the form that is meant, for the report.
        bits: f64,
        /// What that form is called.
        name: &'static str,
    },
}

/// A matrix of integers: weight = scale * (level - zero), with one scale and zero for each group of
/// neighbouring inputs of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels {
    /// Rows.
    pub outputs: usize,
    /// Weights in a row.
    pub inputs: usize,
    /// Bits of a level, 2 to 8.
    pub bits: u32,
    /// Weights in a group; divides `inputs`.
    pub group: usize,
    /// `[outputs, inputs]`, each below `1 << bits`.
    pub levels: Vec<u8>,
    /// `[outputs, inputs / group]`, each exactly a half-precision number.
    pub scales: Vec<f32>,
    /// `[outputs, inputs / group]`.
    pub zeros: Vec<u8>,
}

impl Levels {
    /// Zeros.
    pub fn new(outputs: usize, inputs: usize, bits: u32, group: usize) -> Self {
        let groups = outputs * (inputs / group);
        Self {
            outputs,
            inputs,
            bits,
            group,
            levels: vec![0; outputs * inputs],
            scales: vec![0.0; groups],
            zeros: vec![0; groups],
        }
    }

    /// The weights. `[outputs, inputs]`
    pub fn values(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.levels.len()];
        parallel::pieces(&mut values, self.group * 256, |piece, values| {
            let start = piece * 256;
            for (at, out) in values.chunks_exact_mut(self.group).enumerate() {
                let (scale, zero) = (self.scales[start + at], f32::from(self.zeros[start + at]));
                let levels = &self.levels[(start + at) * self.group..];
                out.iter_mut().zip(levels).for_each(|(out, &level)| *out = scale * (f32::from(level) - zero));
            }
        });
        values
    }

    /// Whether every group's zero is the middle of the range.
    pub fn is_symmetric(&self) -> bool {
        self.zeros.iter().all(|&zero| u32::from(zero) == 1 << (self.bits - 1))
    }

    /// Bits a weight: its level, and its share of the group's scale (16 bits) and zero (as many as a level).
    pub fn bits_per_weight(&self) -> f64 {
        let zero = if self.is_symmetric() { 0 } else { self.bits };
        f64::from(self.bits) + f64::from(16 + zero) / self.group as f64
    }
}

impl Form {
    /// Bits a weight, where plain numbers have `plain` bits.
    pub fn bits(&self, plain: f64) -> f64 {
        match self {
            Self::Dense => plain,
            Self::Levels(levels) => levels.bits_per_weight(),
            Self::Sparse { bits, .. } => *bits,
        }
    }

    /// What it is, in a few words.
    pub fn name(&self) -> String {
        match self {
            Self::Dense => "plain".into(),
            Self::Levels(levels) => format!("int{} by {}", levels.bits, levels.group),
            Self::Sparse { name, .. } => (*name).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_stand_for_scaled_differences_from_zero() {
        let mut levels = Levels::new(2, 4, 4, 2);
        levels.levels = vec![0, 8, 15, 7, 1, 2, 3, 4];
        levels.scales = vec![0.5, 1.0, 2.0, 0.25];
        levels.zeros = vec![8, 8, 0, 3];
        assert_eq!(levels.values(), [-4.0, 0.0, 7.0, -1.0, 2.0, 4.0, 0.0, 0.25]);
        assert!(!levels.is_symmetric());
        assert_eq!(levels.bits_per_weight(), 4.0 + 20.0 / 2.0);
    }
}
