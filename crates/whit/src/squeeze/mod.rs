//! Prompts made shorter by deletion (LLMLingua-2, Pan et al., 2024): a small bidirectional model says of
//! every token how likely it is worth keeping, tokens are joined to words, and the best share of them stays
//! in the order of the text. What stays is always a subsequence of the words that were there.

mod join;
pub mod page;
pub mod select;
mod shipped;
mod words;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::Tensor;
use thiserror::Error;
use whit_kernels::op;

pub use shipped::shipped;
pub use words::Word;

use crate::load::{LoadError, ModelFiles, Tokenizer};
use crate::models::{self, ModelError};
use crate::nn::attention::Separate;
use crate::nn::encoder::{Encoder, EncoderTokens};
use crate::nn::vars::Storage;
use select::{Candidate, Rule, percentile};
use words::{Token, WordMaker};

/// Why a text could not be squeezed.
#[derive(Debug, Error)]
pub enum SqueezeError {
    /// A fraction that keeps nothing, or more than there is.
    #[error("the rate is {0}; it is the fraction to keep, above 0 and at most 1")]
    Rate(f64),
    /// Neither a rate nor a number of tokens.
    #[error("it is not said how much to keep; give a rate or a number of target tokens")]
    NoAmount,
    /// More forced tokens than the method has marks for.
    #[error("{0} force tokens are given; at most {MOST_FORCED} are possible")]
    TooManyForced(usize),
    /// A forced token without a character.
    #[error("a force token is empty")]
    EmptyForced,
    /// A model that does not sort tokens into two classes.
    #[error(
        "{origin} sorts tokens into {labels} classes; a token classifier with 2 is needed, drop and keep"
    )]
    Labels {
        /// The model.
        origin: String,
        /// Its classes; 0 if it is no classifier.
        labels: usize,
    },
    /// The model has no tokenizer, or one that marks no beginning and end.
    #[error(
        "{origin} has no tokenizer that puts a mark before and after a text; put its tokenizer.json beside config.json"
    )]
    Tokenizer {
        /// The model.
        origin: String,
    },
    /// The network could not be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file could not be read, or a text not be encoded.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// The most forced tokens.
const MOST_FORCED: usize = 100;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// A fraction of the tokens.
    Rate(f64),
    /// A number of tokens of the target model.
    Tokens(usize),
}

impl Amount {
    /// What was asked for; tokens go before the rate.
    ///
    /// # Errors
    /// If nothing was, or the rate is not above 0 and at most 1.
    pub fn new(rate: Option<f64>, tokens: Option<usize>) -> Result<Self, SqueezeError> {
        match (rate, tokens) {
            (_, Some(tokens)) => Ok(Self::Tokens(tokens)),
            (Some(rate), None) if rate > 0.0 && rate <= 1.0 => Ok(Self::Rate(rate)),
            (Some(rate), None) => Err(SqueezeError::Rate(rate)),
            (None, None) => Err(SqueezeError::NoAmount),
        }
    }

    /// The fraction of `original` tokens to keep.
    fn rate(self, original: usize) -> f64 {
        match self {
            Self::Rate(rate) => rate,
            Self::Tokens(tokens) => (tokens as f64 / original.max(1) as f64).min(1.0),
        }
    }
}

/// What competes for the places in the shortened text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The words of one chunk, as in the official code.
    Chunk,
    /// The words of one text, as in the paper.
    Prompt,
    /// The words of all texts together: a text with more to say keeps more.
    Corpus,
}

/// What a word of several tokens is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of its tokens.
    Mean,
    /// Its first token.
    First,
}

/// Everything that can be chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How much is kept.
    pub amount: Amount,
    /// What competes.
    pub scope: Scope,
    /// What a word is worth.
    pub word: Pooling,
    /// Texts that stay wherever the budget allows.
    pub force_tokens: Vec<String>,
    /// Tokens with a digit stay wherever the budget allows.
    pub keep_digits: bool,
    /// Drop a forced token that repeats the one before with nothing kept between.
    pub drop_consecutive: bool,
    /// Where a chunk may end.
    pub chunk_ends: Vec<String>,
    /// Give the model the marks that its tokenizer has, not those that the official code looks up.
    pub native_specials: bool,
    /// Drop whole texts first, where there are several.
    pub filter: Option<Filter>,
}

/// How whole texts are dropped before words are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// The fraction of texts to keep, if not the one that the method works out.
    pub rate: Option<f64>,
    /// Texts that stay in any case.
    pub forced: Vec<usize>,
}

impl Settings {
    /// The official code's choices for this amount.
    pub fn new(amount: Amount) -> Self {
        Self {
            amount,
            scope: Scope::Chunk,
            word: Pooling::Mean,
            force_tokens: Vec::new(),
            keep_digits: false,
            drop_consecutive: false,
            chunk_ends: vec![".".into(), "\n".into()],
            native_specials: true,
            filter: None,
        }
    }

    /// Checks what no text is needed to check.
    ///
    /// # Errors
    /// If the rate is out of range, or there are too many forced tokens or empty ones.
    pub fn check(&self) -> Result<(), SqueezeError> {
        if let Amount::Rate(rate) = self.amount {
            Amount::new(Some(rate), None)?;
        }
        if let Some(rate) = self.filter.as_ref().and_then(|filter| filter.rate) {
            Amount::new(Some(rate), None)?;
        }
        if self.force_tokens.len() > MOST_FORCED {
            return Err(SqueezeError::TooManyForced(self.force_tokens.len()));
        }
        if self.force_tokens.iter().any(String::is_empty) {
            return Err(SqueezeError::EmptyForced);
        }
        Ok(())
    }
}

/// A text, squeezed.
#[derive(Clone, Debug, PartialEq)]
pub struct Squeezed {
    /// What is left.
    pub text: String,
    /// The words of the source.
    pub words: Vec<Word>,
    /// Which of them stayed.
    pub kept: Vec<bool>,
    /// Tokens of the source.
    pub original: usize,
    /// Tokens of what is left.
    pub tokens: usize,
}

/// What the work cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Tokens that went through the model.
    pub rows: usize,
    /// Seconds in the model.
    pub model_seconds: f64,
    /// Seconds of everything else.
    pub other_seconds: f64,
}

/// The compressor: a token classifier with its tokenizer.
#[derive(Debug)]
pub struct Squeezer {
    encoder: Encoder,
    tokenizer: Arc<Tokenizer>,
    /// The marks before and after a text.
    marks: [u32; 2],
    /// What the official code takes for them.
    official: [u32; 2],
}

impl Squeezer {
    /// Builds the compressor of a model's files.
    ///
    /// # Errors
    /// If the model is no token classifier with two classes, has no tokenizer, or cannot be built.
    pub fn new(
        files: ModelFiles,
        storage: &Storage,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Self, SqueezeError> {
        let origin = files.origin.to_string();
        let encoder = models::encoder::encoder(&files.config, files.weights.as_ref(), storage, progress)?;
        let no_tokenizer = || SqueezeError::Tokenizer { origin: origin.clone() };
        let tokenizer = files.tokenizer.ok_or_else(no_tokenizer)?;
        tokenizer.check_vocabulary(encoder.config().vocab_size)?;
        match encoder.config().labels.unwrap_or(0) {
            2 => Self::of(encoder, Arc::new(tokenizer)).ok_or_else(no_tokenizer),
            labels => Err(SqueezeError::Labels { origin, labels }),
        }
    }

    /// The compressor of a network; `None` if the tokenizer puts no marks around a text.
    pub fn of(encoder: Encoder, tokenizer: Arc<Tokenizer>) -> Option<Self> {
        let marks: [u32; 2] = tokenizer.encode("", true).ok()?.try_into().ok()?;
        let unknown = tokenizer.token_id("<unk>").or(tokenizer.token_id("[UNK]")).unwrap_or(marks[0]);
        let official = ["[CLS]", "[SEP]"].map(|name| tokenizer.token_id(name).unwrap_or(unknown));
        Some(Self { encoder, tokenizer, marks, official })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The network.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Squeezes `texts`; tokens are counted with `counter`, the target model's tokenizer.
    ///
    /// # Errors
    /// If a setting is out of range or a text cannot be encoded.
    pub fn squeeze(
        &self,
        texts: &[&str],
        counter: &Tokenizer,
        settings: &Settings,
    ) -> Result<(Vec<Squeezed>, Cost), SqueezeError> {
        settings.check()?;
        let start = Instant::now();
        let mut cost = Cost::default();
        let judged = texts.iter().map(|text| self.judge(text, counter, settings, &mut cost));
        let mut judged: Vec<Judged> = judged.collect::<Result<_, _>>()?;
        let original: usize = judged.iter().map(|one| one.tokens).sum();
        let mut rate = settings.amount.rate(original);
        if let Some(filter) = settings.filter.as_ref().filter(|_| texts.len() > 1 && rate < 1.0) {
            let left = drop_texts(&mut judged, filter, rate, settings.amount, original);
            rate = (rate * original as f64 / left.max(1) as f64).min(1.0);
        }
        let exact = matches!(settings.amount, Amount::Tokens(_));
        let rule = Rule { rate, exact, drop_consecutive: settings.drop_consecutive };
        let kept = choose(&judged, settings.scope, &rule);
        let done = texts
            .iter()
            .zip(judged)
            .zip(kept)
            .map(|((text, judged), kept)| judged.done(text, kept, rate, counter));
        let done = done.collect::<Result<_, SqueezeError>>()?;
        cost.other_seconds = start.elapsed().as_secs_f64() - cost.model_seconds;
        Ok((done, cost))
    }

    /// The words of a text with what the model says of them.
    fn judge(
        &self,
        text: &str,
        counter: &Tokenizer,
        settings: &Settings,
        cost: &mut Cost,
    ) -> Result<Judged, SqueezeError> {
        let (ids, spans) = self.tokenizer.encode_with_spans(text, false)?;
        let room = self.encoder.config().context().saturating_sub(2).max(1);
        let chunks = chunks(text, &spans, room, &settings.chunk_ends);
        let probabilities = self.probabilities(&ids, &chunks, settings.native_specials, cost);
        let mut tokens = Vec::with_capacity(ids.len());
        for (chunk, range) in chunks.iter().enumerate() {
            tokens.extend(range.clone().map(|at| Token {
                id: ids[at],
                bytes: spans[at].clone(),
                chunk,
                probability: f64::from(probabilities[at]),
            }));
        }
        let words = WordMaker::new(settings, &self.tokenizer)?.words(text, &tokens);
        let (_, targets) = counter.encode_with_spans(text, false)?;
        let costs = costs(&words, &targets);
        Ok(Judged { words, costs, tokens: targets.len(), dropped: false })
    }

    /// How likely each token is worth keeping.
    fn probabilities(&self, ids: &[u32], chunks: &[Range<usize>], native: bool, cost: &mut Cost) -> Vec<f32> {
        let mut probabilities = Vec::with_capacity(ids.len());
        let mut rest = chunks;
        while !rest.is_empty() {
            let mut rows = 0;
            let fitting = rest.iter().take_while(|chunk| {
                rows += chunk.len() + 2;
                rows <= BATCH
            });
            let (batch, later) = rest.split_at(fitting.count().max(1));
            rest = later;
            let start = Instant::now();
            let chunks: Vec<&[u32]> = batch.iter().map(|chunk| &ids[chunk.clone()]).collect();
            probabilities.extend(self.classify(&chunks, native));
            cost.rows += chunks.iter().map(|chunk| chunk.len() + 2).sum::<usize>();
            cost.model_seconds += start.elapsed().as_secs_f64();
        }
        probabilities
    }

    /// The probabilities of the tokens of `chunks`, which go through the model together.
    fn classify(&self, chunks: &[&[u32]], native: bool) -> Vec<f32> {
        let [first, last] = if native { self.marks } else { self.official };
        let rows: Vec<Vec<u32>> = chunks.iter().map(|chunk| [&[first], *chunk, &[last]].concat()).collect();
        let positions: Vec<u32> = rows.iter().flat_map(|row| self.encoder.config().positions(row)).collect();
        let ids = rows.concat();
        let tokens = EncoderTokens { ids: &ids, positions: &positions, types: &vec![0; ids.len()] };
        let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
        let hidden = self.encoder.forward(tokens, &mut Separate::new(lengths.clone()));
        let Some(logits): Option<Tensor<2>> = self.encoder.classified(hidden) else {
            unreachable!("a compressor is made of a classifier")
        };
        let logits = op::host(logits);
        let keep = |pair: &[f32]| 1.0 / (1.0 + (pair[0] - pair[1]).exp()); // softmax of two
        let all: Vec<f32> = logits.data().chunks_exact(2).map(keep).collect();
        let mut start = 0;
        let mut inner = |&length: &usize| {
            start += length;
            all[start - length + 1..start - 1].to_vec()
        };
        lengths.iter().flat_map(&mut inner).collect()
    }
}

/// Tokens that go through the model together, unless one chunk has more.
const BATCH: usize = 4096;

/// Cuts tokens into chunks of at most `room`, behind the last token that may end one.
fn chunks(text: &str, spans: &[Range<usize>], room: usize, ends: &[String]) -> Vec<Range<usize>> {
    let may_end = |at: usize| {
        let next = spans.get(at + 1).map_or(text.len(), |next| next.start.max(spans[at].end));
        let (own, gap) = (text[spans[at].clone()].trim_start_matches(' '), &text[spans[at].end..next]);
        ends.iter().any(|end| own == end || (!end.is_empty() && gap.contains(end.as_str())))
    };
    let (mut chunks, mut start) = (Vec::new(), 0);
    while start < spans.len() {
        let limit = (start + room).min(spans.len());
        let end = if limit == spans.len() {
            limit
        } else {
            (start..limit).rev().find(|&at| may_end(at)).map_or(limit, |at| at + 1)
        };
        chunks.push(start..end);
        start = end;
    }
    chunks
}

/// How many tokens of the target model each word costs: a token belongs to the first word that reaches its end.
fn costs(words: &[Word], targets: &[Range<usize>]) -> Vec<usize> {
    let mut costs = vec![0; words.len()];
    let mut word = 0;
    for token in targets {
        while word + 1 < words.len() && words[word].bytes.end < token.end {
            word += 1;
        }
        if let Some(cost) = costs.get_mut(word) {
            *cost += 1;
        }
    }
    costs
}

/// A text whose words were judged.
struct Judged {
    words: Vec<Word>,
    /// Tokens of the target model, for each word.
    costs: Vec<usize>,
    /// Those of the whole text.
    tokens: usize,
    /// Whether the filter of whole texts dropped it.
    dropped: bool,
}

impl Judged {
    fn candidates(&self) -> impl Iterator<Item = Candidate> {
        self.words.iter().zip(&self.costs).map(|(word, &tokens)| Candidate {
            probability: word.probability,
            tokens,
            forced: word.forced,
        })
    }

    fn done(
        self,
        text: &str,
        kept: Vec<bool>,
        rate: f64,
        counter: &Tokenizer,
    ) -> Result<Squeezed, SqueezeError> {
        let left =
            if rate >= 1.0 && !self.dropped { text.to_owned() } else { join::join(text, &self.words, &kept) };
        let tokens = counter.encode(&left, false)?.len();
        Ok(Squeezed { text: left, words: self.words, kept, original: self.tokens, tokens })
    }
}

/// Drops the texts with the least mean probability; returns the tokens of those that are left.
fn drop_texts(judged: &mut [Judged], filter: &Filter, rate: f64, amount: Amount, original: usize) -> usize {
    let level = filter.rate.unwrap_or(match amount {
        Amount::Rate(rate) => (rate + 1.0) / 2.0,
        Amount::Tokens(tokens) => (2.0 * tokens as f64 / original.max(1) as f64).min(1.0),
    });
    let level = level.max(rate);
    let mean = |one: &Judged| {
        one.words.iter().map(|word| word.probability).sum::<f64>() / one.words.len().max(1) as f64
    };
    let worth: Vec<f64> = judged.iter().map(mean).collect();
    let least = percentile(worth.clone(), 100.0 * (1.0 - level)).unwrap_or(0.0);
    for (at, one) in judged.iter_mut().enumerate() {
        one.dropped = worth[at] < least && !filter.forced.contains(&at);
    }
    judged.iter().filter(|one| !one.dropped).map(|one| one.tokens).sum()
}

/// Which words stay, by the competitions that `scope` asks for.
fn choose(judged: &[Judged], scope: Scope, rule: &Rule) -> Vec<Vec<bool>> {
    let dropped = |one: &Judged| vec![false; one.words.len()];
    if scope == Scope::Corpus {
        let all: Vec<Candidate> =
            judged.iter().filter(|one| !one.dropped).flat_map(Judged::candidates).collect();
        let mut kept = rule.select(&all).into_iter();
        return judged
            .iter()
            .map(|one| if one.dropped { dropped(one) } else { kept.by_ref().take(one.words.len()).collect() })
            .collect();
    }
    let one = |one: &Judged| {
        if one.dropped {
            return dropped(one);
        }
        let candidates: Vec<Candidate> = one.candidates().collect();
        if scope == Scope::Prompt {
            return rule.select(&candidates);
        }
        let mut start = 0;
        let chunks = one.words.chunk_by(|a, b| a.chunk == b.chunk).flat_map(|chunk| {
            start += chunk.len();
            rule.select(&candidates[start - chunk.len()..start])
        });
        chunks.collect()
    };
    judged.iter().map(one).collect()
}

#[cfg(test)]
mod tests;
