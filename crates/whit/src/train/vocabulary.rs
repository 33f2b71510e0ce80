//! Byte-level byte-pair encoding, trained here: any text can be written, digits stand alone.

use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::wordlevel::{WordLevel, WordLevelTrainer};
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::normalizers::utils::Lowercase;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::processors::bert::BertProcessing;
use tokenizers::{AddedToken, Tokenizer};

use super::TrainError;
use crate::world::corpus::Document;

/// Ends a document; its id is 0.
pub const END: &str = "<|end|>";

/// Documents encoded at a time: enough for every thread, little enough for memory.
const CHUNK: usize = 256;

/// Trains a tokenizer of `size` tokens on `documents`.
///
/// Text is cut before every digit, so that a number is a row of digits whatever its length, then as
/// GPT-2 does. The same documents give the same tokenizer.
///
/// # Errors
/// If `size` does not leave room for the 256 bytes and the end token.
pub fn train(documents: &[Document], size: usize) -> Result<Tokenizer, TrainError> {
    if size <= 257 {
        return Err(TrainError::Setting(format!(
            "a vocabulary of {size} tokens is too small, the least is 258"
        )));
    }
    let mut tokenizer = Tokenizer::new(BPE::default());
    let steps: Vec<PreTokenizerWrapper> =
        vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()];
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    let trainer: BpeTrainer = BpeTrainer::builder()
        .vocab_size(size)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(END, true)])
        .max_token_length(Some(24))
        .build();
    let texts = documents.iter().map(|document| document.text.as_str());
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts).map_err(TrainError::Tokenizer)?;
    Ok(tokenizer)
}

/// Trains a tokenizer of `size` word pieces on `texts`, as BERT has them: lower case, marks apart, `[CLS]`
/// before and `[SEP]` after a text.
///
/// # Errors
/// If `size` is too small.
pub fn word_pieces<'a>(
    texts: impl Iterator<Item = &'a str> + Send,
    size: usize,
) -> Result<Tokenizer, TrainError> {
    let marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
    if size <= 300 {
        return Err(TrainError::Setting(format!(
            "a vocabulary of {size} word pieces is too small, the least is 301"
        )));
    }
    let model = WordPiece::builder().unk_token(marks[1].into()).build().map_err(TrainError::Tokenizer)?;
    let mut tokenizer = Tokenizer::new(model);
    let normalizer = BertNormalizer::new(true, true, Some(true), true);
    tokenizer.with_normalizer(Some(normalizer)).map_err(TrainError::Tokenizer)?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    tokenizer.with_decoder(Some(WordPieceDecoder::default()));
    let special = marks.iter().map(|mark| AddedToken::from(*mark, true)).collect();
    let trainer =
        WordPieceTrainer::builder().vocab_size(size).show_progress(false).special_tokens(special).build();
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts).map_err(TrainError::Tokenizer)?;
    let id = |mark: &str| (mark.to_owned(), tokenizer.token_to_id(mark).unwrap_or(0));
    let around = BertProcessing::new(id(marks[3]), id(marks[2]));
    tokenizer.with_post_processor(Some(around));
    Ok(tokenizer)
}

/// Begins a text of CLIP's text encoder.
pub const TEXT_START: &str = "<|startoftext|>";

/// Ends a text of CLIP's text encoder, and fills up rows.
pub const TEXT_END: &str = "<|endoftext|>";

/// The marks of a vocabulary of words: for padding (if it has its own), for unknown words, before and behind a text.
pub type Marks = [&'static str; 4];

/// The marks that CLIP's text encoder has; the end is padding too.
pub const CLIP: Marks = [TEXT_END, "[UNK]", TEXT_START, TEXT_END];

/// The marks that BERT has.
pub const SENTENCE: Marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];

/// Every word of `texts` as a token, in lower case, commas and the like apart, with marks around a text.
///
/// # Errors
/// If the tokenizer cannot be made.
pub fn words(texts: &[String], marks: Marks) -> Result<Tokenizer, TrainError> {
    let model = WordLevel::builder().unk_token(marks[1].into()).build().map_err(TrainError::Tokenizer)?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(Lowercase)).map_err(TrainError::Tokenizer)?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    let different = (0..marks.len()).filter(|&at| !marks[..at].contains(&marks[at]));
    let special = different.map(|at| AddedToken::from(marks[at], true)).collect();
    let trainer = WordLevelTrainer::builder().show_progress(false).special_tokens(special).build();
    let trainer = trainer.map_err(|error| TrainError::Setting(error.to_string()))?;
    let texts = texts.iter().map(String::as_str);
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts).map_err(TrainError::Tokenizer)?;
    let id = |mark: &str| (mark.to_owned(), tokenizer.token_to_id(mark).unwrap_or(0));
    let around = BertProcessing::new(id(marks[3]), id(marks[2]));
    tokenizer.with_post_processor(Some(around));
    Ok(tokenizer)
}

/// The ids of one text, without special tokens.
///
/// # Errors
/// If the tokenizer cannot encode it.
pub fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, TrainError> {
    let encoding = tokenizer.encode_fast(text, false).map_err(TrainError::Tokenizer)?;
    Ok(encoding.get_ids().to_vec())
}

/// The ids of all documents in a row, each closed by `end`.
///
/// # Errors
/// If the tokenizer cannot encode a document.
pub fn encode_documents(
    tokenizer: &Tokenizer,
    documents: &[Document],
    end: u32,
) -> Result<Vec<u32>, TrainError> {
    let mut ids = Vec::new();
    for chunk in documents.chunks(CHUNK) {
        let texts = chunk.iter().map(|document| document.text.as_str()).collect();
        for encoding in tokenizer.encode_batch_fast(texts, false).map_err(TrainError::Tokenizer)? {
            ids.extend_from_slice(encoding.get_ids());
            ids.push(end);
        }
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents() -> Vec<Document> {
        let text =
            |i: usize| format!("fn value_{i}() -> usize {{\n    let total = {i} * 12;\n    total\n}}\n");
        (0..60).map(|i| Document { source: "test".into(), text: text(i) }).collect()
    }

    #[test]
    fn any_text_survives_and_digits_stand_alone() {
        let tokenizer = train(&documents(), 300).unwrap();
        for text in ["fn main() {\n        return 48213;\n}", "héllo — ✓\0\u{1f600}", "  \n\n\t"] {
            let ids = encode(&tokenizer, text).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        }
        assert_eq!(encode(&tokenizer, "48213").unwrap().len(), 5);
        assert_eq!(tokenizer.token_to_id(END), Some(0));
        assert!(tokenizer.get_vocab_size(true) <= 300);
    }

    #[test]
    fn training_twice_gives_the_same_tokenizer() {
        let [one, two] = [(); 2].map(|()| train(&documents(), 320).unwrap().to_string(true).unwrap());
        assert_eq!(one, two);
    }

    #[test]
    fn words_are_tokens_and_stand_between_the_marks() {
        let texts = ["a red circle, and a cube".to_owned(), "A blue cube".to_owned()];
        let tokenizer = words(&texts, CLIP).unwrap();
        let tokens = |text: &str| tokenizer.encode(text, true).unwrap().get_tokens().to_vec();
        assert_eq!(tokens("a Blue circle"), [TEXT_START, "a", "blue", "circle", TEXT_END]);
        assert_eq!(tokens("green, cube"), [TEXT_START, "[UNK]", ",", "cube", TEXT_END]);
        assert_eq!(tokenizer.get_vocab_size(true), 3 + 7);
    }

    #[test]
    fn documents_are_closed_and_too_small_a_size_is_refused() {
        let tokenizer = train(&documents(), 280).unwrap();
        let ids = encode_documents(&tokenizer, &documents(), 0).unwrap();
        assert_eq!(ids.iter().filter(|&&id| id == 0).count(), 60);
        assert!(matches!(train(&documents(), 100), Err(TrainError::Setting(_))));
    }
}
