//! From tokens to words: which tokens belong together, which of them are forced, and what a word is worth.

use std::ops::Range;

use tokenizers::models::ModelWrapper;

use super::{Pooling, Settings, SqueezeError};
use crate::load::Tokenizer;

/// A word of the source.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// Its bytes.
    pub bytes: Range<usize>,
    /// How likely it is worth keeping.
    pub probability: f64,
    /// Which of the forced tokens it is.
    pub forced: Option<usize>,
    /// The chunk that it was judged in.
    pub chunk: usize,
}

/// A token with what the model says of it.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) id: u32,
    pub(super) bytes: Range<usize>,
    pub(super) chunk: usize,
    pub(super) probability: f64,
}

/// How a vocabulary shows that a token goes on with the word before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joint {
    /// By `##` in front.
    Marked,
    /// By nothing: a token that begins a word has a space (`▁` or `Ġ`) in front.
    Unmarked,
}

/// Makes words of the tokens of one tokenizer.
#[derive(Debug)]
pub(super) struct WordMaker<'a> {
    settings: &'a Settings,
    tokenizer: &'a Tokenizer,
    joint: Joint,
    /// The id of each forced token that is one token of the vocabulary.
    single: Vec<Option<u32>>,
}

impl<'a> WordMaker<'a> {
    pub(super) fn new(settings: &'a Settings, tokenizer: &'a Tokenizer) -> Result<Self, SqueezeError> {
        let joint = match tokenizer.inner().get_model() {
            ModelWrapper::WordPiece(_) => Joint::Marked,
            _ => Joint::Unmarked,
        };
        let single = settings.force_tokens.iter().map(|text| single(tokenizer, text));
        Ok(Self { settings, tokenizer, joint, single: single.collect::<Result<_, _>>()? })
    }

    /// The words of `text`, in order.
    pub(super) fn words(&self, text: &str, tokens: &[Token]) -> Vec<Word> {
        let marks = self.marks(text);
        let mut words: Vec<Grown> = Vec::new();
        let mut pending = marks.iter().peekable();
        for token in tokens.iter().filter(|token| !token.bytes.is_empty()) {
            // Marks that no token stands for (line breaks, mostly).
            while let Some((bytes, forced)) = pending.next_if(|(bytes, _)| bytes.end <= token.bytes.start) {
                if words.last().is_none_or(|word| word.bytes.end < bytes.end) {
                    let chunk = words.last().map_or(token.chunk, |word| word.chunk);
                    words.push(Grown::new(bytes.clone(), chunk, Some(*forced)));
                }
            }
            let mark = pending.peek().filter(|(bytes, _)| bytes.start < token.bytes.end);
            self.add(text, token, mark.map(|(bytes, forced)| (bytes.clone(), *forced)), &mut words);
        }
        let chunk = words.last().map_or(0, |word| word.chunk);
        for (bytes, forced) in pending
            .filter(|(bytes, _)| words.last().is_none_or(|word| word.bytes.end < bytes.end))
            .collect::<Vec<_>>()
        {
            words.push(Grown::new(bytes.clone(), chunk, Some(*forced)));
        }
        words.into_iter().map(|word| word.done(self.settings.word)).collect()
    }

    fn add(&self, text: &str, token: &Token, mark: Option<(Range<usize>, usize)>, words: &mut Vec<Grown>) {
        let spelled = &text[token.bytes.clone()];
        let forced = mark.as_ref().map(|(_, forced)| *forced).or_else(|| self.forced(token.id));
        let digit = self.settings.keep_digits && spelled.contains(|letter: char| letter.is_numeric());
        let probability = if forced.is_some() || digit { 1.0 } else { token.probability };
        match words.last_mut() {
            // Several tokens of one forced text.
            Some(word) if mark.as_ref().is_some_and(|(bytes, _)| word.bytes.end > bytes.start) => {
                word.grow(token, probability);
            }
            Some(word) if forced.is_none() && word.chunk == token.chunk && self.goes_on(token, text) => {
                word.forced = None; // it is more than the forced token now
                word.grow(token, probability);
            }
            _ => {
                let mut word = Grown::new(trimmed(text, &token.bytes), token.chunk, forced);
                word.probabilities = vec![probability];
                words.push(word);
            }
        }
    }

    /// Whether a token goes on with the word before it.
    fn goes_on(&self, token: &Token, text: &str) -> bool {
        let Some(spelling) = self.tokenizer.token(token.id) else { return false };
        match self.joint {
            Joint::Marked => spelling.starts_with("##"),
            Joint::Unmarked => {
                let spaced = spelling.starts_with(['▁', 'Ġ', 'Ċ'])
                    || text[token.bytes.clone()].starts_with(char::is_whitespace);
                let mark =
                    spelling.len() == 1 && spelling.starts_with(|letter: char| letter.is_ascii_punctuation());
                !spaced && !mark
            }
        }
    }

    fn forced(&self, id: u32) -> Option<usize> {
        self.single.iter().position(|single| *single == Some(id))
    }

    /// Where the forced texts stand that are not one token, without overlaps.
    fn marks(&self, text: &str) -> Vec<(Range<usize>, usize)> {
        let several =
            self.settings.force_tokens.iter().enumerate().filter(|(at, _)| self.single[*at].is_none());
        let mut found: Vec<(Range<usize>, usize)> = several
            .flat_map(|(at, mark)| {
                text.match_indices(mark.as_str()).map(move |(start, _)| (start..start + mark.len(), at))
            })
            .collect();
        found.sort_by_key(|(bytes, at)| (bytes.start, *at));
        let mut end = 0;
        found.retain(|(bytes, _)| {
            let free = bytes.start >= end;
            end = if free { bytes.end } else { end };
            free
        });
        found
    }
}

/// The id of the token that is all of `text`, if there is one that stands for nothing else.
fn single(tokenizer: &Tokenizer, text: &str) -> Result<Option<u32>, SqueezeError> {
    let (ids, spans) = tokenizer.encode_with_spans(text, false)?;
    Ok(match (ids.as_slice(), spans.as_slice()) {
        ([id], [span]) if *span == (0..text.len()) => {
            let spelling = tokenizer.token(*id).unwrap_or_default();
            let bare = spelling.trim_start_matches(['▁', 'Ġ']);
            (bare.eq_ignore_ascii_case(text)).then_some(*id)
        }
        _ => None,
    })
}

/// The bytes of a token without the space in front that some vocabularies count as its own.
fn trimmed(text: &str, bytes: &Range<usize>) -> Range<usize> {
    let whole = &text[bytes.clone()];
    let space = whole.len() - whole.trim_start().len();
    if space == whole.len() { bytes.clone() } else { bytes.start + space..bytes.end }
}

/// A word that may still grow.
struct Grown {
    bytes: Range<usize>,
    chunk: usize,
    forced: Option<usize>,
    probabilities: Vec<f64>,
}

impl Grown {
    fn new(bytes: Range<usize>, chunk: usize, forced: Option<usize>) -> Self {
        Self { bytes, chunk, forced, probabilities: vec![1.0] }
    }

    fn grow(&mut self, token: &Token, probability: f64) {
        self.bytes.end = self.bytes.end.max(token.bytes.end);
        self.probabilities.push(probability);
    }

    fn done(self, pooling: Pooling) -> Word {
        let probability = match pooling {
            Pooling::Mean => self.probabilities.iter().sum::<f64>() / self.probabilities.len() as f64,
            Pooling::First => self.probabilities[0],
        };
        Word { bytes: self.bytes, probability, forced: self.forced, chunk: self.chunk }
    }
}
