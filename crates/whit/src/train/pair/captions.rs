//! Captions as rows of token ids of one length.

use crate::load::Tokenizer;
use crate::train::TrainError;
use crate::world::Scenes;

/// Some captions, each between the marks of a text; shorter ones are filled up with the mark that ends one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Captions {
    /// `[captions * length]`
    pub(super) ids: Vec<u32>,
    /// Tokens of a row.
    pub(super) length: usize,
}

impl Captions {
    /// What `tokenizer` makes of `texts`, of which those of more than `context` tokens lose words at their end.
    pub(super) fn new(texts: &[String], tokenizer: &Tokenizer, context: usize) -> Result<Self, TrainError> {
        let encode = |text: &String| tokenizer.encode(text, true);
        let mut rows = texts.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        let length = rows.iter().map(Vec::len).max().unwrap_or(0).min(context);
        for row in &mut rows {
            let end = row.last().copied().unwrap_or_default();
            row.truncate(length.saturating_sub(1));
            row.resize(length, end);
        }
        Ok(Self { ids: rows.concat(), length })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.ids.len() / self.length.max(1)
    }
}

/// The captions of the scenes with these numbers, each in all its phrasings.
pub(super) fn texts(scenes: &Scenes, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.flat_map(|number| scenes.scene(number).captions()).map(|(_, caption)| caption).collect()
}
