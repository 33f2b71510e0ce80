//! Rotary positions and every way in use of stretching them to longer contexts.
//!
//! Formulas after RoFormer (arXiv 2104.09864), position interpolation (2306.15595), YaRN
//! (2309.00071) and the released LLaMA 3.1; as in transformers' `modeling_rope_utils.py`, whose
//! `f32` arithmetic is kept so that the outputs agree.

use std::f32::consts::TAU;

use burn::tensor::{Int, Tensor};
use whit_kernels::op::{self, Host};
use whit_kernels::rotary::{self, Style};

/// How one model turns positions into angles.
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryConfig {
    /// The base of the geometric row of frequencies.
    pub theta: f32,
    /// How many of a head's dimensions are rotated; even.
    pub dim: usize,
    /// The stretching rule.
    pub scaling: Scaling,
    /// The context length of the configuration, which dynamic scaling compares with.
    pub max_positions: usize,
}

/// A rule that changes the frequencies so that a model reaches further than it was trained for.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// The plain frequencies.
    None,
    /// All frequencies divided by one factor.
    Linear(f32),
    /// The base grows with the length of the sequence once that passes the trained one.
    Dynamic(f32),
    /// Low frequencies divided, high ones kept, a ramp between.
    Llama3(Llama3),
    /// NTK by parts with a scaled attention temperature.
    Yarn(Yarn),
    /// Each frequency divided by its own factor, as GGUF files store them.
    Factors(Vec<f32>),
}

/// The parameters of LLaMA 3's rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Llama3 {
    /// How far the low frequencies are stretched.
    pub factor: f32,
    /// Wavelengths above `original / low` are stretched in full.
    pub low: f32,
    /// Wavelengths below `original / high` are kept.
    pub high: f32,
    /// The trained context length.
    pub original: f32,
}

/// The parameters of YaRN.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    /// How far the context is stretched.
    pub factor: f32,
    /// What cosine and sine are multiplied with.
    pub attention_factor: f32,
    /// Rotations over the trained context above which a dimension is kept.
    pub beta_fast: f32,
    /// Rotations below which a dimension is interpolated in full.
    pub beta_slow: f32,
    /// The trained context length.
    pub original: f32,
    /// Whether the ends of the ramp are rounded to whole dimensions.
    pub truncate: bool,
}

/// Cosines and sines for the tokens of one forward pass: each `[tokens, dim / 2]`.
#[derive(Clone, Debug)]
pub struct Angles {
    cos: Tensor<2>,
    sin: Tensor<2>,
}

impl Angles {
    /// Rotates heads `[tokens, heads, head_dim]`, halves paired as in Llama.
    pub fn rotate(&self, heads: Tensor<3>) -> Tensor<3> {
        rotary::apply(heads, self.cos.clone(), self.sin.clone(), Style::Halves)
    }

    /// Those of some tokens.
    pub fn select(&self, tokens: &[usize]) -> Self {
        Self { cos: rows(&self.cos, tokens), sin: rows(&self.sin, tokens) }
    }
}

/// Some rows of a matrix.
pub(crate) fn rows(matrix: &Tensor<2>, wanted: &[usize]) -> Tensor<2> {
    let wanted: Vec<i64> = wanted.iter().map(|&row| row as i64).collect();
    let device = matrix.device();
    matrix.clone().select(0, Tensor::<1, Int>::from_ints(wanted.as_slice(), &device))
}

impl RotaryConfig {
    /// The angles for tokens at `positions`, where `lengths[i]` is the length that the sequence of
    /// token `i` reaches in this call (only dynamic scaling looks at it).
    pub fn angles(&self, positions: &[u32], lengths: &[u32]) -> Angles {
        let half = self.dim / 2;
        let scale = self.amplitude();
        let mut cos = Vec::with_capacity(positions.len() * half);
        let mut sin = Vec::with_capacity(positions.len() * half);
        let mut length = 0;
        let mut frequencies = self.frequencies(length);
        for (&position, &reached) in positions.iter().zip(lengths) {
            if reached != length && matches!(self.scaling, Scaling::Dynamic(_)) {
                length = reached;
                frequencies = self.frequencies(length);
            }
            for frequency in &frequencies {
                let (s, c) = (frequency * position as f32).sin_cos();
                cos.push(c * scale);
                sin.push(s * scale);
            }
        }
        let table = |values| op::tensor(Host::new([positions.len(), half], values));
        Angles { cos: table(cos), sin: table(sin) }
    }

    /// The angle per position of each pair of dimensions, for a sequence of `length` tokens.
    pub fn frequencies(&self, length: u32) -> Vec<f32> {
        let plain = |theta: f32| -> Vec<f32> {
            let dim = self.dim as f32;
            (0..self.dim / 2).map(|i| 1.0 / theta.powf((2 * i) as f32 / dim)).collect()
        };
        match &self.scaling {
            Scaling::None => plain(self.theta),
            Scaling::Linear(factor) => plain(self.theta).iter().map(|f| f / factor).collect(),
            Scaling::Dynamic(factor) => plain(self.dynamic_theta(*factor, length)),
            Scaling::Llama3(rule) => plain(self.theta).iter().map(|&f| rule.stretch(f)).collect(),
            Scaling::Yarn(rule) => rule.stretch(&plain(self.theta), self),
            Scaling::Factors(factors) => {
                plain(self.theta).iter().zip(factors).map(|(f, by)| f / by).collect()
            }
        }
    }

    fn dynamic_theta(&self, factor: f32, length: u32) -> f32 {
        let trained = self.max_positions as f32;
        let length = (length as f32).max(trained);
        let dim = self.dim as f32;
        self.theta * (factor * length / trained - (factor - 1.0)).powf(dim / (dim - 2.0))
    }

    fn amplitude(&self) -> f32 {
        match &self.scaling {
            Scaling::Yarn(rule) => rule.attention_factor,
            _ => 1.0,
        }
    }
}

impl Llama3 {
    fn stretch(&self, frequency: f32) -> f32 {
        let wavelength = TAU / frequency;
        if wavelength > self.original / self.low {
            return frequency / self.factor;
        }
        if wavelength < self.original / self.high {
            return frequency;
        }
        let smooth = (self.original / wavelength - self.low) / (self.high - self.low);
        (1.0 - smooth) * frequency / self.factor + smooth * frequency
    }
}

impl Yarn {
    /// The attention factor that the paper recommends for a stretch (section 3.4).
    pub fn recommended_attention(factor: f32, scale: f32) -> f32 {
        if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
    }

    fn stretch(&self, plain: &[f32], config: &RotaryConfig) -> Vec<f32> {
        let dim = config.dim as f32;
        let turning =
            |rotations: f32| dim * (self.original / (rotations * TAU)).ln() / (2.0 * config.theta.ln());
        let (mut low, mut high) = (turning(self.beta_fast), turning(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        let blend = |(i, &frequency): (usize, &f32)| {
            let interpolated = ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
            frequency / self.factor * interpolated + frequency * (1.0 - interpolated)
        };
        plain.iter().enumerate().map(blend).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(scaling: Scaling) -> RotaryConfig {
        RotaryConfig { theta: 10_000.0, dim: 8, scaling, max_positions: 16 }
    }

    #[test]
    fn plain_frequencies_are_powers_of_the_base() {
        let found = config(Scaling::None).frequencies(0);
        for (found, wanted) in found.iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((found - wanted).abs() < 1e-6 * wanted.max(1e-3), "{found} {wanted}");
        }
    }

    #[test]
    fn dynamic_scaling_starts_past_the_trained_length() {
        let dynamic = config(Scaling::Dynamic(2.0));
        assert_eq!(dynamic.frequencies(16), config(Scaling::None).frequencies(0));
        assert!(dynamic.frequencies(32)[3] < dynamic.frequencies(16)[3]);
    }

    #[test]
    fn yarn_keeps_fast_dimensions_and_stretches_slow_ones() {
        let rule = Yarn {
            factor: 4.0,
            attention_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original: 2048.0,
            truncate: true,
        };
        let config = RotaryConfig { dim: 64, ..config(Scaling::Yarn(rule)) };
        let (plain, found) =
            (RotaryConfig { scaling: Scaling::None, ..config.clone() }.frequencies(0), config.frequencies(0));
        assert_eq!(found[0], plain[0]);
        assert!((found[31] * 4.0 - plain[31]).abs() < 1e-9);
    }

    #[test]
    fn tokens_of_one_call_may_belong_to_sequences_of_different_length() {
        let dynamic = config(Scaling::Dynamic(2.0));
        let both = dynamic.angles(&[5, 5], &[6, 40]).cos.into_data();
        let alone = dynamic.angles(&[5], &[40]).cos.into_data();
        let both = both.as_slice::<f32>().map(<[f32]>::to_vec);
        assert_eq!(
            both.map(|values| values[4..].to_vec()).ok(),
            alone.as_slice::<f32>().map(<[f32]>::to_vec).ok()
        );
    }
}
