//! The one result record: filled once, written by every writer.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::pairs::Spread;

/// What one variant of a task gave, beside the baseline of the same run.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// The task: `text`.
    pub task: &'static str,
    /// Where and with what it was measured.
    pub setting: Setting,
    /// The methods with their knobs; `baseline` for none.
    pub methods: String,
    /// Tokens of the prompt before methods shortened it.
    pub original_tokens: usize,
    /// Tokens of the prompt that were read.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub new_tokens: usize,
    /// Seconds until the first token.
    pub first_token_seconds: Spread,
    /// How many times as fast as the baseline's the first token comes, by pairs of the same round.
    pub first_token_speedup: Spread,
    /// Prompt tokens a second.
    pub prompt_rate: f64,
    /// Seconds of all tokens after the first.
    pub decode_seconds: Spread,
    /// Tokens a second after the first.
    pub decode_rate: f64,
    /// Tokens gained by each forward pass.
    pub tokens_per_pass: f64,
    /// How many times as fast as the baseline decoding is, by pairs of the same round.
    pub speedup: Spread,
    /// Multiply-adds of the decoding passes, in billions.
    pub decode_gmacs: f64,
    /// Bytes of the cache at the end.
    pub cache_bytes: usize,
    /// Bytes of the weights.
    pub weight_bytes: usize,
    /// The most memory that the process held, all variants together.
    pub peak_bytes: Option<u64>,
    /// The share of tokens equal to the baseline's.
    pub agreement: f64,
    /// Loss of the model on held-out text in nats a token, where a text was given; only of the first row, since it is
    /// measured in one pass without methods ([`stepwise`](super::stepwise) measures what methods lose).
    pub loss: Option<f64>,
    /// What one should know before believing the numbers.
    pub warnings: Vec<String>,
}

/// Where and with what something was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// The version of Whit.
    pub version: &'static str,
    /// Seconds since 1970.
    pub time: u64,
    /// The processor's instruction set, as the kernels use it.
    pub processor: String,
    /// Threads.
    pub threads: usize,
    /// The model.
    pub model: String,
    /// The weight type.
    pub dtype: String,
    /// Whether the weights are trained; random ones serve for timing only.
    pub trained: bool,
    /// Rounds.
    pub rounds: usize,
}

impl Setting {
    /// The setting of this process and moment.
    pub fn here(model: String, dtype: String, trained: bool, rounds: usize) -> Self {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let features = whit_kernels::simd::features();
        let extensions = [(features.vnni, " vnni"), (features.bf16, " bf16")];
        let extensions: String = extensions.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            time,
            processor: format!("{} {:?}{extensions}", std::env::consts::ARCH, features.level).to_lowercase(),
            threads: whit_kernels::parallel::threads(),
            model,
            dtype,
            trained,
            rounds,
        }
    }
}

impl Record {
    /// Judges the numbers: what is too noisy to believe, and where there is no gain.
    pub fn judge(&mut self) {
        // A first token is one measurement of a few milliseconds: its gain must stand out of its spread.
        let (decode, first) = (&self.speedup, &self.first_token_speedup);
        if self.methods != BASELINE && decode.median.max(first.median - first.spread) < 1.02 {
            self.warnings.push(format!(
                "no gain here: {:.2} times the baseline's speed, {:.2} to the first token",
                decode.median, first.median
            ));
        }
        if self.decode_seconds.spread > 0.15 {
            let percent = 100.0 * self.decode_seconds.spread;
            self.warnings.push(format!(
                "noisy: the middle half of the times spreads over {percent:.0} %; run more rounds"
            ));
        }
        if self.setting.rounds < 3 {
            self.warnings.push("fewer than 3 rounds: medians mean little".into());
        }
    }
}

/// The name of the variant without methods.
pub const BASELINE: &str = "baseline";
