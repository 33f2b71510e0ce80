//! Questions about something in a long context, and whether a model still answers them with a method on.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::stepwise::heard;
use crate::generate::GenerateError;
use crate::load::{LoadError, Tokenizer};
use crate::methods::Plan;
use crate::nn::decoder::Decoder;
use crate::world::tasks::{Lines, Task};

/// A context with something to be found in it, the question for it, and the answer.
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
    task: Task,
    context: usize,
    count: usize,
) -> Result<Vec<Question>, LoadError> {
    let mut bytes = 4 * context;
    let mut questions = Vec::new();
    for seed in 0..(TRIES * count) as u64 {
        if questions.len() == count {
            break;
        }
        let question = Question::new(tokenizer, lines, task, bytes.max(64), seed)?;
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
    fn new(
        tokenizer: &Tokenizer,
        lines: &Lines<'_>,
        task: Task,
        bytes: usize,
        seed: u64,
    ) -> Result<Self, LoadError> {
        let sample = task.sample(lines, bytes, &mut ChaCha8Rng::seed_from_u64(seed));
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

    /// Whether the model answers, token for token. The question is read at once with the text, or, `behind` it, in
    /// steps, so that methods that thin out the cache do not know it when they do.
    ///
    /// # Errors
    /// If the text does not fit the model, or a method fails.
    pub fn is_answered(&self, model: &Decoder, plan: &Plan, behind: bool) -> Result<bool, GenerateError> {
        let whole = [&self.text[..], &self.question, &self.answer].concat();
        let prompt = self.text.len() + if behind { 0 } else { self.question.len() };
        let heard = heard(model, plan, &whole[..prompt], &whole[prompt..])?;
        let answer = heard.len().checked_sub(self.answer.len()).map(|start| &heard[start..]);
        Ok(answer.is_some_and(|answer| answer.iter().all(|heard| heard.agreed)))
    }
}
