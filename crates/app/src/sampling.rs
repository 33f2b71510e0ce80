//! The options with which tokens are chosen, shared by all verbs that generate.

use std::collections::HashMap;

use clap::Args;
use whit::generate::Sampling;
use whit::load::GenerationConfig;

use crate::error::AppError;

/// How tokens are chosen. Greedy unless a temperature is given.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArguments {
    /// Divides the logits; 0 takes the best token always [default: 0]
    #[arg(long, short = 't')]
    pub temperature: Option<f32>,

    /// Only the K best tokens; 0 for all
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,

    /// The smallest set of best tokens with this probability
    #[arg(long, value_name = "SHARE")]
    pub top_p: Option<f32>,

    /// Only tokens at least this fraction as probable as the best
    #[arg(long, value_name = "SHARE")]
    pub min_p: Option<f32>,

    /// The locally typical set of this probability
    #[arg(long, value_name = "SHARE")]
    pub typical_p: Option<f32>,

    /// Makes tokens that occurred less likely; 1 for off
    #[arg(long, value_name = "FACTOR")]
    pub repetition_penalty: Option<f32>,

    /// Subtracted from the logits of generated tokens
    #[arg(long, value_name = "AMOUNT", allow_hyphen_values = true)]
    pub presence_penalty: Option<f32>,

    /// Subtracted from the logits of generated tokens, for each time
    #[arg(long, value_name = "AMOUNT", allow_hyphen_values = true)]
    pub frequency_penalty: Option<f32>,

    /// Adds to a token's logit; may be repeated
    #[arg(long, value_name = "TOKEN=AMOUNT", value_parser = bias, allow_hyphen_values = true)]
    pub logit_bias: Vec<(u32, f32)>,

    /// The seed of the random stream
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Use the sampling options that the model's authors recommend
    #[arg(long)]
    pub recommended: bool,
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let wrong = || format!("`{text}` is not TOKEN=AMOUNT, such as 13=-5");
    let (token, amount) = text.split_once('=').ok_or_else(wrong)?;
    Ok((token.parse().map_err(|_| wrong())?, amount.parse().map_err(|_| wrong())?))
}

impl SamplingArguments {
    /// The options, with those that were not given taken from the model's authors if wanted.
    pub fn resolve(&self, authors: &GenerationConfig) -> Result<Sampling, AppError> {
        let plain = Sampling::default();
        let authors = if self.recommended { authors.clone() } else { GenerationConfig::default() };
        let temperature = match authors.do_sample {
            Some(false) => None,
            Some(true) => authors.temperature.or(Some(1.0)),
            None => authors.temperature,
        };
        let number = |given: Option<f32>, theirs: Option<f64>, plain: f32| {
            given.or(theirs.map(|value| value as f32)).unwrap_or(plain)
        };
        let sampling = Sampling {
            temperature: number(self.temperature, temperature, plain.temperature),
            top_k: self.top_k.or(authors.top_k).unwrap_or(plain.top_k),
            top_p: number(self.top_p, authors.top_p, plain.top_p),
            min_p: number(self.min_p, authors.min_p, plain.min_p),
            typical_p: number(self.typical_p, authors.typical_p, plain.typical_p),
            repetition_penalty: number(
                self.repetition_penalty,
                authors.repetition_penalty,
                plain.repetition_penalty,
            ),
            presence_penalty: self.presence_penalty.unwrap_or(plain.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(plain.frequency_penalty),
            logit_bias: self.logit_bias.iter().copied().collect::<HashMap<_, _>>(),
            seed: self.seed,
        };
        sampling.check().map_err(|error| AppError::input(error.to_string(), "see `whit generate --help`"))?;
        Ok(sampling)
    }
}
