//! Text to calibrate with, and text to measure on, which are never the same.

use std::path::Path;

use super::{Calibration, ShrinkError};
use crate::load::{LoadError, Tokenizer};
use crate::world::corpus::{Corpus, CorpusError, Limits};

/// How much text is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// Sequences to calibrate with, at most.
    pub samples: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// Sequences to measure on, at most.
    pub held_out: usize,
}

/// Tokens for both purposes.
#[derive(Clone, Debug)]
pub struct Texts {
    /// What methods may look at.
    pub calibration: Calibration,
    /// What results are measured on.
    pub held_out: Vec<Vec<u32>>,
    /// Bytes of text that a token of `held_out` stands for, on average.
    pub bytes_per_token: f64,
}

/// Cuts the text at `path` (a file, or a folder as [`Corpus::of_folder`] reads it) into sequences.
///
/// # Errors
/// If it cannot be read, or does not fill one sequence.
pub fn read(path: &Path, tokenizer: &Tokenizer, amount: Amount) -> Result<Texts, ShrinkError> {
    if path.is_dir() {
        let corpus =
            Corpus::of_folder(path, Limits { held_out: 10, ..Limits::default() }).map_err(unreadable)?;
        let join = |documents: &[crate::world::corpus::Document]| {
            documents.iter().map(|document| document.text.as_str()).collect::<Vec<_>>().join("\n")
        };
        if !corpus.held_out.is_empty() {
            return cut(&join(&corpus.train), &join(&corpus.held_out), tokenizer, amount);
        }
        return split(&join(&corpus.train), tokenizer, amount);
    }
    let text = std::fs::read_to_string(path).map_err(|reason| LoadError::io("read", path, reason))?;
    split(&text, tokenizer, amount)
}

fn unreadable(error: CorpusError) -> ShrinkError {
    ShrinkError::Calibration { reason: error.to_string() }
}

/// The text that comes with Whit: its own source. Some files are for calibration, others for measuring.
///
/// # Errors
/// If the tokenizer fails, or the text does not fill one sequence.
pub fn embedded(tokenizer: &Tokenizer, amount: Amount) -> Result<Texts, ShrinkError> {
    cut(&CALIBRATION.join("\n"), &HELD_OUT.join("\n"), tokenizer, amount)
}

/// The last tenth of a text is held out.
fn split(text: &str, tokenizer: &Tokenizer, amount: Amount) -> Result<Texts, ShrinkError> {
    let at = text.floor_char_boundary(text.len() / 10 * 9);
    cut(&text[..at], &text[at..], tokenizer, amount)
}

fn cut(
    calibration: &str,
    held_out: &str,
    tokenizer: &Tokenizer,
    amount: Amount,
) -> Result<Texts, ShrinkError> {
    let (ids, held) = (tokenizer.encode(calibration, false)?, tokenizer.encode(held_out, false)?);
    let bytes_per_token = held_out.len() as f64 / held.len().max(1) as f64;
    let calibration = Calibration { sequences: windows(&ids, amount.samples, amount.length) };
    if calibration.sequences.is_empty() {
        let reason =
            format!("the text has {} tokens, fewer than one sequence of {}", ids.len(), amount.length);
        return Err(ShrinkError::Calibration { reason });
    }
    let mut held_out = windows(&held, amount.held_out, amount.length);
    if held_out.is_empty() {
        held_out.push(held);
    }
    Ok(Texts { calibration, held_out, bytes_per_token })
}

/// At most `count` windows of `length` tokens, evenly spread over the text, none of which overlap.
fn windows(ids: &[u32], count: usize, length: usize) -> Vec<Vec<u32>> {
    let there = ids.len() / length.max(1);
    let taken = there.min(count);
    (0..taken).map(|index| ids[index * there / taken * length..][..length].to_vec()).collect()
}

macro_rules! sources {
    ($($path:literal)*) => { &[$(include_str!(concat!("../", $path))),*] };
}

static CALIBRATION: &[&str] = sources! {
    "generate/cache.rs" "generate/sampler.rs" "generate/scheduler.rs" "generate/sequence.rs" "generate/text.rs"
    "load/chat/mod.rs" "load/config.rs" "load/error.rs" "load/file.rs" "load/folder.rs" "load/hub.rs"
    "load/gguf/config.rs" "load/gguf/metadata.rs" "load/gguf/names.rs" "load/gguf/parse.rs" "load/gguf/tokenizer.rs"
    "load/safetensors/header.rs" "load/safetensors/sharded.rs" "load/tensor.rs" "load/tokenizer.rs"
    "methods/knobs.rs" "methods/plan.rs" "methods/select.rs" "methods/tree.rs" "models/config.rs" "models/forward.rs"
    "nn/decoder.rs" "nn/rotary.rs" "nn/vars.rs" "world/corpus.rs" "world/screen.rs"
};

static HELD_OUT: &[&str] = sources! {
    "measure/write.rs" "measure/record.rs" "measure/text.rs" "train/checkpoint.rs" "train/language.rs"
    "train/optimizer.rs" "train/run.rs" "train/windows.rs" "world/tasks.rs" "load/gguf/write.rs"
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Source;

    #[test]
    fn windows_are_spread_and_do_not_overlap() {
        let ids: Vec<u32> = (0..100).collect();
        let starts: Vec<u32> = windows(&ids, 3, 10).iter().map(|window| window[0]).collect();
        assert_eq!(starts, [0, 30, 60]);
        assert_eq!(windows(&ids, 99, 30).len(), 3);
        assert!(windows(&ids, 3, 101).is_empty());
    }

    #[test]
    fn text_that_is_too_short_is_refused_and_the_rest_is_split() {
        let json = crate::load::byte_level_json().to_string();
        let tokenizer = Tokenizer::from_source(&Source::memory("t", json.into_bytes())).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, "abcdefghij".repeat(20)).unwrap();
        let amount = Amount { samples: 8, length: 10, held_out: 4 };
        let texts = read(&path, &tokenizer, amount).unwrap();
        assert_eq!((texts.calibration.sequences.len(), texts.held_out.len()), (8, 2));
        let refused = read(&path, &tokenizer, Amount { length: 1000, ..amount }).unwrap_err();
        assert!(refused.to_string().contains("fewer than one sequence"), "{refused}");
        assert!(read(&folder.path().join("none"), &tokenizer, amount).is_err());
    }
}
