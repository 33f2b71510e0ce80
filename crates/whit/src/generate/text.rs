//! From text to text: a model with its tokenizer, and the stream that turns tokens into text as they
//! come, whole characters only, watching for stop strings.

use std::sync::Arc;

use thiserror::Error;

use super::prompt::Written;
use crate::load::{ChatTemplate, GenerationConfig, LoadError, Message, ModelFiles, Tokenizer};
use crate::models::{self, ModelError};
use crate::nn::decoder::Decoder;
use crate::nn::vars::Storage;

/// A language model that can be spoken to.
#[derive(Debug)]
pub struct TextModel {
    /// The network.
    pub decoder: Decoder,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// How conversations are written, if the model says.
    pub chat_template: Option<ChatTemplate>,
    /// The sampling options that its authors recommend.
    pub generation: GenerationConfig,
}

/// Why a text model could not be opened.
#[derive(Debug, Error)]
pub enum TextError {
    /// The network could not be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file could not be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The folder has no tokenizer.
    #[error("{origin} has no tokenizer; put its tokenizer.json beside config.json")]
    NoTokenizer {
        /// Where the model came from.
        origin: String,
    },
}

impl TextModel {
    /// Builds the model from its opened files.
    ///
    /// # Errors
    /// If the network cannot be built, or there is no tokenizer or one for another vocabulary.
    pub fn new(
        files: ModelFiles,
        storage: &Storage,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Self, TextError> {
        let decoder = models::decoder(&files.config, files.weights.as_ref(), storage, progress)?;
        let no_tokenizer = || TextError::NoTokenizer { origin: files.origin.to_string() };
        let tokenizer = files.tokenizer.ok_or_else(no_tokenizer)?;
        tokenizer.check_vocabulary(decoder.config().vocab_size)?;
        Ok(Self {
            decoder,
            tokenizer: Arc::new(tokenizer),
            chat_template: files.chat_template,
            generation: files.generation,
        })
    }

    /// A prompt as it is written for the model: a plain text, or the first message of a conversation.
    ///
    /// # Errors
    /// If the chat template fails.
    pub fn prompt(&self, text: &str, chat: bool) -> Result<Written, LoadError> {
        if chat {
            self.conversation(&[Message::new("user", text)])
        } else {
            Ok(Written::plain(text, Arc::clone(&self.tokenizer)))
        }
    }

    /// A conversation as it is written for the model, up to where it should answer. Without a chat template
    /// the messages are joined, one a line.
    ///
    /// # Errors
    /// If the chat template fails.
    pub fn conversation(&self, messages: &[Message]) -> Result<Written, LoadError> {
        let tokenizer = Arc::clone(&self.tokenizer);
        match &self.chat_template {
            Some(template) => Written::conversation(messages, template, tokenizer),
            None => {
                let lines: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
                Ok(Written::plain(&lines.join("\n"), tokenizer))
            }
        }
    }

    /// The tokens that end a text.
    pub fn stop_tokens(&self) -> Vec<u32> {
        let mut tokens = self.generation.eos_token_id.clone();
        tokens.extend(self.tokenizer.eos());
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    /// A stream for the text of one answer.
    pub fn stream(&self, stops: Vec<String>) -> TextStream {
        TextStream::new(Arc::clone(&self.tokenizer), stops)
    }
}

/// Tokens in, text out.
#[derive(Debug)]
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    stops: Vec<String>,
    tokens: Vec<u32>,
    /// Tokens before this one have been turned into text.
    done: usize,
    /// A few tokens before `done` are decoded again, since a tokenizer may write a token differently
    /// at the start of a text.
    context: usize,
    /// The text so far, up to what may still be the start of a stop string.
    text: String,
    /// How much of `text` was handed out.
    given: usize,
    stopped: bool,
}

impl TextStream {
    /// A stream that ends at any of `stops`.
    pub fn new(tokenizer: Arc<Tokenizer>, stops: Vec<String>) -> Self {
        let (tokens, text) = (Vec::new(), String::new());
        Self { tokenizer, stops, tokens, done: 0, context: 0, text, given: 0, stopped: false }
    }

    /// Takes tokens; returns the text that is certain now.
    ///
    /// # Errors
    /// If the tokenizer does not know a token.
    pub fn push(&mut self, tokens: &[u32]) -> Result<String, LoadError> {
        if self.stopped {
            return Ok(String::new());
        }
        self.tokens.extend(tokens);
        let known = self.tokenizer.decode(&self.tokens[self.context..self.done], true)?;
        let longer = self.tokenizer.decode(&self.tokens[self.context..], true)?;
        // A character whose bytes are not complete shows as the replacement character.
        if longer.len() > known.len() && !longer.ends_with('\u{fffd}') {
            self.append(&longer[known.len()..]);
        }
        Ok(self.release(false))
    }

    /// Ends the text; returns what was held back.
    ///
    /// # Errors
    /// If the tokenizer does not know a token.
    pub fn finish(&mut self) -> Result<String, LoadError> {
        let known = self.tokenizer.decode(&self.tokens[self.context..self.done], true)?;
        let longer = self.tokenizer.decode(&self.tokens[self.context..], true)?;
        if longer.len() > known.len() && !self.stopped {
            self.append(&longer[known.len()..]);
        }
        Ok(self.release(true))
    }

    /// Whether a stop string has come up.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// All the text that was handed out.
    pub fn text(&self) -> &str {
        &self.text[..self.given]
    }

    fn append(&mut self, piece: &str) {
        self.text.push_str(piece);
        self.context = self.done;
        self.done = self.tokens.len();
        let found = self
            .stops
            .iter()
            .filter(|stop| !stop.is_empty())
            .filter_map(|stop| self.text.find(stop.as_str()));
        if let Some(end) = found.min() {
            self.text.truncate(end);
            self.stopped = true;
        }
    }

    /// Hands out all text that cannot be the start of a stop string any more.
    fn release(&mut self, end: bool) -> String {
        let held = if end || self.stopped { 0 } else { self.held() };
        let until = (self.text.len() - held).max(self.given);
        let piece = self.text[self.given..until].to_owned();
        self.given = until;
        piece
    }

    /// The length of the longest end of the text that a stop string starts with.
    fn held(&self) -> usize {
        let starts = |stop: &String| {
            let ends = stop.char_indices().map(|(at, _)| at).filter(|&at| at > 0);
            ends.filter(|&at| self.text.ends_with(&stop[..at])).max().unwrap_or(0)
        };
        self.stops.iter().map(starts).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One token a byte.
    fn bytes() -> Arc<Tokenizer> {
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let mut letters: Vec<char> = alphabet.into_iter().collect();
        letters.sort_unstable();
        let vocabulary: serde_json::Map<String, serde_json::Value> =
            letters.iter().enumerate().map(|(id, letter)| (letter.to_string(), id.into())).collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
        });
        let inner: tokenizers::Tokenizer = json.to_string().parse().unwrap_or_else(|error| panic!("{error}"));
        Arc::new(Tokenizer::new(inner))
    }

    fn stream(stops: &[&str]) -> TextStream {
        TextStream::new(bytes(), stops.iter().map(|stop| (*stop).to_owned()).collect())
    }

    fn pieces(stream: &mut TextStream, text: &str) -> Vec<String> {
        let tokens = stream.tokenizer.encode(text, false).unwrap_or_default();
        let mut pieces: Vec<String> =
            tokens.iter().map(|&token| stream.push(&[token]).unwrap_or_default()).collect();
        pieces.push(stream.finish().unwrap_or_default());
        pieces
    }

    #[test]
    fn characters_come_whole() {
        let pieces = pieces(&mut stream(&[]), "aé€🦀b");
        assert_eq!(pieces, ["a", "", "é", "", "", "€", "", "", "", "🦀", "b", ""]);
    }

    #[test]
    fn a_stop_string_never_shows_not_even_in_part() {
        let mut stream = stream(&["END", "\n\n"]);
        assert_eq!(pieces(&mut stream, "an E, EN. END more").concat(), "an E, EN. ");
        assert!(stream.is_stopped());
        assert_eq!(stream.text(), "an E, EN. ");
    }

    #[test]
    fn what_was_held_back_comes_at_the_end() {
        let mut stream = stream(&["END"]);
        assert_eq!(pieces(&mut stream, "the EN").last().map(String::as_str), Some("EN"));
        assert!(!stream.is_stopped());
    }

    #[test]
    fn several_tokens_at_once_give_the_same_text() {
        let mut stream = stream(&["stop"]);
        let tokens = stream.tokenizer.encode("gänzlich stop", false).unwrap_or_default();
        let text: String = tokens.chunks(5).map(|chunk| stream.push(chunk).unwrap_or_default()).collect();
        assert_eq!(text, "gänzlich ");
    }
}
