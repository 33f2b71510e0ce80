//! How good a language model is: bits per byte of held-out text, and generated tasks solved.

use rand::RngExt;
use serde::Serialize;

use super::TrainError;
use super::language::{Language, logits, logits_through};
use super::sparsity::{Scores, Usage};
use super::vocabulary::encode;
use super::windows::{Shape, stream};
use crate::nn::decoder::{Decoder, Positions};
use crate::world::corpus::Document;
use crate::world::tasks::{Lines, Sample, Task};
use whit_kernels::cross_entropy::token_losses;
use whit_kernels::op;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Windows of held-out text, at most.
    pub windows: usize,
    /// Samples of each task.
    pub samples: usize,
}

impl Default for Effort {
    fn default() -> Self {
        Self { windows: 400, samples: 200 }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Cross-entropy of held-out text, in bits for each byte of it.
    pub bits_per_byte: f64,
    /// The same in nats for each token.
    pub loss: f64,
    /// Bytes of held-out text that were scored.
    pub bytes: usize,
    /// Each task's name, and the share of its samples answered to the letter.
    pub tasks: Vec<(String, f64)>,
    /// How many experts stay closed, where the model has blocks of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// Measures `model`, which is outside autodiff.
///
/// Text is scored in windows that do not overlap, so that most tokens have less context than the
/// whole window. A task counts as solved where every token of the answer is the model's first choice,
/// which is what greedy decoding writes.
///
/// # Errors
/// If the tokenizer fails.
pub fn measure(model: &Decoder, language: &Language, effort: Effort) -> Result<Figures, TrainError> {
    let (nats, tokens, bytes) = held_out(model, language, effort.windows);
    let tasks =
        Task::ALL.iter().map(|&task| Ok((task.to_string(), solved(model, language, task, effort.samples)?)));
    Ok(Figures {
        bits_per_byte: nats / std::f64::consts::LN_2 / bytes.max(1) as f64,
        loss: nats / tokens.max(1) as f64,
        bytes,
        tasks: tasks.collect::<Result<_, TrainError>>()?,
        usage: usage(model, language),
    })
}

/// Windows of held-out text over which experts are counted.
const COUNTED: usize = 64;

/// The mean use of the experts over layers and held-out text.
fn usage(model: &Decoder, language: &Language) -> Option<Usage> {
    let sequence = language.held_out.shape.sequence;
    let mut found = Vec::new();
    for inputs in language.held_out.tokens.chunks_exact(sequence).take(COUNTED) {
        let mut scores = Scores::of(1);
        logits_through(model, inputs, Shape { rows: 1, sequence }, &mut scores);
        found.extend(scores.usage());
    }
    (!found.is_empty()).then(|| Usage::mean(&found))
}

/// The summed loss in nats, and the number of tokens and of bytes that it is over.
fn held_out(model: &Decoder, language: &Language, windows: usize) -> (f64, usize, usize) {
    let sequence = language.held_out.shape.sequence;
    let (mut nats, mut tokens, mut bytes) = (0.0, 0, 0);
    for start in (0..language.held_out.tokens.len().saturating_sub(1)).step_by(sequence).take(windows) {
        let end = (start + sequence).min(language.held_out.tokens.len() - 1);
        let inputs = &language.held_out.tokens[start..end];
        let targets = &language.held_out.tokens[start + 1..=end];
        let scores = op::host(logits(model, inputs, Shape { rows: 1, sequence: inputs.len() }));
        nats += token_losses(scores.data(), targets).iter().map(|&loss| f64::from(loss)).sum::<f64>();
        tokens += targets.len();
        bytes += targets.iter().map(|&id| byte_count(language, id)).sum::<usize>();
    }
    (nats, tokens, bytes)
}

/// The bytes that a token stands for: byte-level vocabularies write each byte as one character.
fn byte_count(language: &Language, id: u32) -> usize {
    if id == language.held_out.end {
        return 0;
    }
    language.tokenizer.id_to_token(id).map_or(0, |token| token.chars().count())
}

/// The share of `count` samples of `task` that `model` answers.
fn solved(model: &Decoder, language: &Language, task: Task, count: usize) -> Result<f64, TrainError> {
    let windows = &language.held_out;
    let lines = Lines::new(windows.material.iter().take(200).map(|Document { text, .. }| text.as_str()));
    let mut right = 0;
    for number in 0..count {
        let mut random = stream(windows.seed, 3 + task as u64, number as u64);
        let bytes = random.random_range(32..=2 * windows.shape.sequence);
        let sample = task.sample(&lines, bytes, &mut random);
        right += usize::from(answers(model, language, &sample)?);
    }
    Ok(right as f64 / count.max(1) as f64)
}

fn answers(model: &Decoder, language: &Language, sample: &Sample) -> Result<bool, TrainError> {
    let mut tokens = encode(&language.tokenizer, &sample.prompt)?;
    let start = tokens.len();
    tokens.extend(encode(&language.tokenizer, &sample.answer)?);
    let inputs = &tokens[..tokens.len() - 1];
    // A model with a table of positions has none to read further.
    let config = model.config();
    if config.positions == Positions::Learned && inputs.len() > config.max_positions {
        return Ok(false);
    }
    let scores = op::host(logits(model, inputs, Shape { rows: 1, sequence: inputs.len() }));
    let rows = scores.data().chunks_exact(scores.width()).skip(start - 1);
    Ok(rows.zip(&tokens[start..]).all(|(row, &token)| first_choice(row) == token as usize))
}

fn first_choice(scores: &[f32]) -> usize {
    let better = |best: usize, at: usize| if scores[at] > scores[best] { at } else { best };
    (0..scores.len()).fold(0, better)
}
