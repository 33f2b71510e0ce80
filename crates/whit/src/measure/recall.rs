//! Keys hidden in a long context, and whether a model finds them while it decodes.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::stepwise::Steps;
use crate::generate::GenerateError;
use crate::load::{LoadError, Tokenizer};
use crate::methods::Plan;
use crate::nn::decoder::Decoder;
use crate::world::tasks::{Lines, Task};

/// A context with keys in it, the question for one of them, and the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is read at once.
    pub text: Vec<u32>,
    /// What is read step by step.
    pub question: Vec<u32>,
    /// What has to follow.
    pub answer: Vec<u32>,
}

/// Samples that may be drawn for each that fits.
const TRIES: usize = 50;

/// Questions in contexts between three quarters and all of `context` tokens; fewer than `count` where the
/// lines do not make contexts of that length.
///
/// # Errors
/// If the tokenizer fails.
pub fn questions(
    tokenizer: &Tokenizer,
    lines: &Lines<'_>,
    context: usize,
    count: usize,
) -> Result<Vec<Question>, LoadError> {
    let mut bytes = 4 * context;
    let mut questions = Vec::new();
    for seed in 0..(TRIES * count) as u64 {
        if questions.len() == count {
            break;
        }
        let question = Question::new(tokenizer, lines, bytes.max(64), seed)?;
        if (3 * context / 4..=context).contains(&question.len()) {
            questions.push(question);
        } else {
            // Bytes for a context of the right length, as many a token as in this one.
            bytes = bytes * context * 15 / 16 / question.len().max(1);
        }
    }
    Ok(questions)
}

impl Question {
    fn new(tokenizer: &Tokenizer, lines: &Lines<'_>, bytes: usize, seed: u64) -> Result<Self, LoadError> {
        let sample = Task::ManyKeys.sample(lines, bytes, &mut ChaCha8Rng::seed_from_u64(seed));
        let start = sample.prompt.rfind('\n').map_or(0, |end| end + 1);
        let (text, question) = sample.prompt.split_at(start);
        Ok(Self {
            text: tokenizer.encode(text, false)?,
            question: tokenizer.encode(question, false)?,
            answer: tokenizer.encode(&sample.answer, false)?,
        })
    }

    /// All its tokens.
    fn len(&self) -> usize {
        self.text.len() + self.question.len() + self.answer.len()
    }

    /// Whether the model answers, token for token: the text is read at once, the question and the answer in
    /// steps.
    ///
    /// # Errors
    /// If the text does not fit the model, or a method fails.
    pub fn is_answered(&self, model: &Decoder, plan: &Plan) -> Result<bool, GenerateError> {
        let mut steps = Steps::new(model, plan, &self.text)?;
        let mut scores = Vec::new();
        for &token in &self.question {
            scores = steps.feed(token)?;
        }
        for &token in &self.answer {
            if best(&scores) != Some(token) {
                return Ok(false);
            }
            scores = steps.feed(token)?;
        }
        Ok(true)
    }
}

fn best(scores: &[f32]) -> Option<u32> {
    (0..).zip(scores).max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(token, _)| token)
}
