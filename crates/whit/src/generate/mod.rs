//! From a request to its result: sequences, each with its cache, sampler and method state, and the
//! scheduler that advances them together.

pub mod cache;
pub mod dictation;
pub mod forward;
pub mod prompt;
pub mod reading;
pub mod sampler;
pub mod scheduler;
pub mod sequence;
pub mod text;
pub mod trace;
pub mod watch;

pub use sampler::{Sampler, Sampling};
pub use scheduler::Scheduler;
pub use sequence::{Event, Finish, Request, Statistics};
pub use trace::Trace;

use thiserror::Error;

use crate::load::LoadError;
use crate::methods::MethodError;
use sampler::SamplingError;

/// Why a request cannot be carried out.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// The prompt has no tokens.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// The prompt does not fit.
    #[error(
        "the prompt has {tokens} tokens, but the model reads at most {limit}; \
         shorten it, or use a model with a longer context"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// The model's limit.
        limit: usize,
    },
    /// A token that the model does not have.
    #[error(
        "token {token} is outside the model's vocabulary of {vocabulary}; tokenizer and model do not match"
    )]
    UnknownToken {
        /// The token.
        token: u32,
        /// The vocabulary's size.
        vocabulary: usize,
    },
    /// The model computed something that is no number.
    #[error("the model's hidden state is not finite; its weights are damaged, or too large for their type")]
    NotFinite,
    /// A sampling option is out of range.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// A text cannot be turned into tokens.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A method refused.
    #[error(transparent)]
    Method(#[from] MethodError),
}

#[cfg(test)]
mod tests;
