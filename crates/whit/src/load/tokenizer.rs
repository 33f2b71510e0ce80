//! Text to token ids and back, including the exact bytes of a single token.

use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::Value;
use tokenizers::Encoding;

use super::file::{TOKENIZER_LIMIT, read_bounded};
use super::{LoadError, Source};

/// A tokenizer of the `tokenizers` library with what generation needs besides.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    spelling: Spelling,
    eos: BTreeSet<u32>,
    special: BTreeSet<u32>,
    added: BTreeSet<u32>,
}

/// Tokens, and the bytes that each of them stands for.
pub type Encoded = (Vec<u32>, Vec<Range<usize>>);

/// How the text of a vocabulary entry stands for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// Each character is one byte, as GPT-2 maps them.
    ByteLevel,
    /// SentencePiece: `▁` is a space, `<0x0A>` is a byte.
    ByteFallback,
    /// The text itself.
    Plain,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`LoadError::Tokenizer`] with the library's reason, [`LoadError::TooLarge`], [`LoadError::Io`].
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        Self::from_json(&read_bounded(path, TOKENIZER_LIMIT)?, path)
    }

    /// As [`Tokenizer::open`], from bytes under a name for errors.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn from_source(source: &Source) -> Result<Self, LoadError> {
        Self::from_json(&source.read(0, source.len().min(TOKENIZER_LIMIT))?, source.path())
    }

    /// The library may panic on a malformed file; that too becomes an error.
    pub(crate) fn from_json(json: &[u8], path: &Path) -> Result<Self, LoadError> {
        let parsed = catch_unwind(AssertUnwindSafe(|| tokenizers::Tokenizer::from_bytes(json)));
        let inner = match parsed {
            Ok(Ok(inner)) => inner,
            Ok(Err(reason)) => return Err(LoadError::tokenizer(path, reason)),
            Err(_) => return Err(LoadError::tokenizer(path, "its parts contradict each other")),
        };
        if inner.get_vocab_size(true) == 0 {
            return Err(LoadError::tokenizer(path, "its vocabulary is empty"));
        }
        Ok(Self::new(inner))
    }

    /// Wraps a tokenizer of the library, without truncation or padding, which would falsify lengths.
    pub fn new(mut inner: tokenizers::Tokenizer) -> Self {
        let _ = inner.with_truncation(None);
        inner.with_padding(None);
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        let added = added.keys().copied().collect();
        let spelling = Spelling::of(&inner);
        Self { inner, spelling, eos: BTreeSet::new(), special, added }
    }

    /// Sets the ids that end a text.
    pub fn with_eos(mut self, ids: impl IntoIterator<Item = u32>) -> Self {
        self.eos = ids.into_iter().collect();
        self
    }

    /// The ids that end a text, as the generation config, the config or the tokenizer say; ascending.
    pub fn eos(&self) -> Vec<u32> {
        self.eos.iter().copied().collect()
    }

    /// Token ids of a text; `add_special` puts the beginning-of-text token in front if the model wants one.
    ///
    /// # Errors
    /// [`LoadError::Encoding`].
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, LoadError> {
        encoding(|| self.inner.encode_fast(text, add_special)).map(|encoding| encoding.get_ids().to_vec())
    }

    /// The tokens that [`Tokenizer::encode`] puts before and behind every text if it is asked to.
    ///
    /// # Errors
    /// [`LoadError::Encoding`].
    pub fn marks(&self) -> Result<(Vec<u32>, Vec<u32>), LoadError> {
        let (bare, mut before) = (self.encode("a", false)?, self.encode("a", true)?);
        let at = before.windows(bare.len().max(1)).position(|part| part == bare);
        let after = at.map(|at| before.split_off(at).split_off(bare.len()));
        Ok((before, after.unwrap_or_default()))
    }

    /// As [`Tokenizer::encode`], with the bytes of `text` that each token stands for; a special token that
    /// was added stands for none.
    ///
    /// # Errors
    /// [`LoadError::Encoding`].
    pub fn encode_with_spans(&self, text: &str, add_special: bool) -> Result<Encoded, LoadError> {
        let encoding = encoding(|| self.inner.encode(text, add_special))?;
        let spans = encoding.get_offsets().iter().map(|&(start, end)| start..end).collect();
        Ok((encoding.get_ids().to_vec(), spans))
    }

    /// The tokenizer as a `tokenizer.json`.
    ///
    /// # Errors
    /// [`LoadError::Encoding`].
    pub fn to_json(&self) -> Result<String, LoadError> {
        self.inner.to_string(false).map_err(|e| LoadError::Encoding { reason: e.to_string() })
    }

    /// Text of token ids; bytes that are no UTF-8 become `U+FFFD`.
    ///
    /// # Errors
    /// [`LoadError::Encoding`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, LoadError> {
        self.inner.decode(ids, skip_special).map_err(|e| LoadError::Encoding { reason: e.to_string() })
    }

    /// The exact bytes that a token stands for, which may be a part of a character; `None` for an unknown id.
    ///
    /// A stream of tokens must join bytes, not texts: one character may be spread over several tokens.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let text = self.inner.id_to_token(id)?;
        if self.added.contains(&id) {
            return Some(text.into_bytes());
        }
        Some(self.spelling.bytes(text))
    }

    /// Whether a token is a mark (beginning, end, role) rather than text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Id of a token by its text in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Text of a token in the vocabulary's own spelling.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Number of tokens, those added to the vocabulary included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// A number that is the same for tokenizers with the same tokens under the same ids.
    pub fn fingerprint(&self) -> u64 {
        // FNV-1a of each entry; their sum does not depend on the map's order.
        let entry = |(token, id): (String, u32)| {
            let bytes = token.bytes().chain(id.to_le_bytes());
            bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
            })
        };
        self.inner.get_vocab(true).into_iter().map(entry).fold(0, u64::wrapping_add)
    }

    /// Checks that every token has a row in an embedding of `rows` rows (which may have spare ones).
    ///
    /// # Errors
    /// [`LoadError::Vocabulary`].
    pub fn check_vocabulary(&self, rows: usize) -> Result<(), LoadError> {
        let highest = self.inner.get_vocab(true).into_values().max().unwrap_or(0);
        if highest as usize >= rows {
            return Err(LoadError::Vocabulary { highest, vocab_size: rows });
        }
        Ok(())
    }

    /// The library's tokenizer.
    pub fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }
}

/// Runs the library's encoder, whose panics become errors too.
fn encoding(encode: impl FnOnce() -> tokenizers::Result<Encoding>) -> Result<Encoding, LoadError> {
    match catch_unwind(AssertUnwindSafe(encode)) {
        Ok(Ok(encoding)) => Ok(encoding),
        Ok(Err(reason)) => Err(LoadError::Encoding { reason: reason.to_string() }),
        Err(_) => Err(LoadError::Encoding { reason: "the tokenizer's parts contradict each other".into() }),
    }
}

impl Spelling {
    fn of(tokenizer: &tokenizers::Tokenizer) -> Self {
        let decoder = tokenizer.get_decoder().and_then(|d| serde_json::to_value(d).ok());
        let mut kinds = BTreeSet::new();
        collect_kinds(&decoder.unwrap_or_default(), &mut kinds);
        match kinds {
            k if k.contains("ByteLevel") => Self::ByteLevel,
            k if k.contains("ByteFallback") || k.contains("Metaspace") => Self::ByteFallback,
            _ => Self::Plain,
        }
    }

    fn bytes(self, text: String) -> Vec<u8> {
        match self {
            Self::Plain => text.into_bytes(),
            Self::ByteLevel => text.chars().map(byte_of).collect::<Option<_>>().unwrap_or(text.into_bytes()),
            Self::ByteFallback => match fallback_byte(&text) {
                Some(byte) => vec![byte],
                None => text.replace('▁', " ").into_bytes(),
            },
        }
    }
}

/// The `type` of a decoder and of those inside it.
fn collect_kinds(decoder: &Value, kinds: &mut BTreeSet<String>) {
    if let Some(kind) = decoder["type"].as_str() {
        kinds.insert(kind.to_owned());
    }
    for inner in decoder["decoders"].as_array().into_iter().flatten() {
        collect_kinds(inner, kinds);
    }
}

/// The byte spelled `<0x0A>`.
fn fallback_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Whether GPT-2's alphabet writes this byte as the character of the same code.
fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// GPT-2's alphabet: printable bytes stand for themselves, the 68 others are counted up from U+0100.
fn byte_of(letter: char) -> Option<u8> {
    match u32::from(letter) {
        code @ 0..=0xff => Some(code as u8).filter(|&byte| is_printable(byte)),
        code => (0..=255u8).filter(|&byte| !is_printable(byte)).nth(code as usize - 0x100),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// A byte-level tokenizer with the 256 bytes, two merges and an end token.
    pub(crate) fn byte_level_json() -> Value {
        let mut alphabet: Vec<char> =
            (0..0x180u32).filter_map(char::from_u32).filter(|&letter| byte_of(letter).is_some()).collect();
        alphabet.sort_by_key(|&letter| byte_of(letter));
        let mut vocab: serde_json::Map<_, _> =
            alphabet.iter().enumerate().map(|(id, letter)| (letter.to_string(), json!(id))).collect();
        vocab.insert("he".into(), json!(256));
        vocab.insert("hel".into(), json!(257));
        json!({
            "version": "1.0",
            "added_tokens": [{"id": 258, "content": "<|end|>", "single_word": false, "lstrip": false,
                              "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": vocab, "merges": ["h e", "he l"]}
        })
    }

    fn tokenizer(json: &Value) -> Result<Tokenizer, LoadError> {
        Tokenizer::from_json(json.to_string().as_bytes(), Path::new("tokenizer.json"))
    }

    #[test]
    fn bytes_of_byte_level_tokens_join_to_the_text() {
        let tokenizer = tokenizer(&byte_level_json()).unwrap().with_eos([258]);
        let text = "hello wörld\n\u{1f980} <|end|>";
        let ids = tokenizer.encode(text, true).unwrap();
        assert_eq!(ids[0], 257);
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap()).collect();
        assert_eq!(bytes, text.as_bytes());
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "hello wörld\n\u{1f980} ");
        assert_eq!((tokenizer.vocab_size(), tokenizer.eos()), (259, vec![258]));
        assert!(tokenizer.is_special(258) && !tokenizer.is_special(0));
        assert_eq!(tokenizer.token_bytes(259), None);
        assert!(tokenizer.check_vocabulary(259).is_ok());
        assert!(matches!(tokenizer.check_vocabulary(258), Err(LoadError::Vocabulary { highest: 258, .. })));
    }

    #[test]
    fn the_alphabet_is_a_bijection() {
        let bytes: BTreeSet<u8> = (0..0x200u32).filter_map(char::from_u32).filter_map(byte_of).collect();
        assert_eq!(bytes.len(), 256);
        assert_eq!(
            (byte_of('Ġ'), byte_of('Ċ'), byte_of('a'), byte_of(' ')),
            (Some(b' '), Some(b'\n'), Some(b'a'), None)
        );
        assert_eq!(byte_of('\u{ffff}'), None);
    }

    #[test]
    fn bytes_of_sentencepiece_tokens() {
        let json = json!({
            "version": "1.0", "added_tokens": [],
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
            "model": {"type": "BPE", "byte_fallback": true, "vocab": {"▁a": 0, "<0xC3>": 1, "<0xZZ>": 2}, "merges": []}
        });
        let tokenizer = tokenizer(&json).unwrap();
        assert_eq!(tokenizer.token_bytes(0).unwrap(), b" a");
        assert_eq!(tokenizer.token_bytes(1).unwrap(), [0xc3]);
        assert_eq!(tokenizer.token_bytes(2).unwrap(), b"<0xZZ>");
    }

    #[test]
    fn broken_tokenizers_are_refused() {
        let mut merges = byte_level_json();
        merges["model"]["merges"] = json!(["h zz"]);
        let mut kind = byte_level_json();
        kind["model"]["type"] = json!("Nonsense");
        let empty = json!({"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}});
        for json in [json!(null), json!({"model": 3}), merges, kind, empty] {
            assert!(matches!(tokenizer(&json), Err(LoadError::Tokenizer { .. })));
        }
        let nested = "[".repeat(100_000);
        assert!(Tokenizer::from_json(nested.as_bytes(), Path::new("x")).is_err());
    }
}
