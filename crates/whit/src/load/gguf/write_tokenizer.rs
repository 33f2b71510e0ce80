//! A tokenizer as GGUF's vocabulary.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value as Json;

use super::metadata::Value;
use super::tokenizer::{BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};
use super::{GgufError, Model, pretokenizer};
use crate::load::{Settings, SpecialTokens, Tokenizer};

type Pairs = BTreeMap<String, Value>;

fn unwritable(reason: impl Into<String>) -> GgufError {
    GgufError::Unwritable { reason: format!("its tokenizer {}", reason.into()) }
}

/// All keys of the tokenizer and the chat template, for an embedding of `rows` rows.
pub(super) fn metadata(model: &Model, rows: usize) -> Result<Pairs, GgufError> {
    let mut pairs = match model.tokenizer {
        None => Pairs::from([(key("model"), Value::Text("no_vocab".into()))]),
        Some(tokenizer) => vocabulary(tokenizer, rows)?,
    };
    if let Some(template) = model.chat_template {
        pairs.insert("tokenizer.chat_template".into(), Value::Text(template.source().to_owned()));
    }
    pairs.extend(marks(model, rows)?);
    Ok(pairs)
}

/// The tokens of beginning, end and padding. Whoever uses a token knows it best: what the tokenizer puts around every
/// text goes before what the template inserts, and that before what the configuration says.
fn marks(model: &Model, rows: usize) -> Result<Pairs, GgufError> {
    let settings = Settings::new(model.config)?;
    // Some configurations say -1 for "none".
    let configured = |key: &str| settings.token_ids(key).unwrap_or_default();
    let named = |name: fn(&SpecialTokens) -> &Option<String>| -> Option<u32> {
        model.tokenizer?.token_id(name(model.chat_template?.tokens()).as_deref()?)
    };
    let (before, after) = around(model)?;
    let begin = before.or(named(|tokens| &tokens.bos)).or(configured("bos_token_id").first().copied());
    let padding = configured("pad_token_id").first().copied().or(named(|tokens| &tokens.pad));
    let known = model.tokenizer.map(|tokenizer| tokenizer.eos()).unwrap_or_default();
    let mut ends = Vec::new();
    for id in after.into_iter().chain(named(|t| &t.eos)).chain(configured("eos_token_id")).chain(known) {
        if !ends.contains(&id) {
            ends.push(id);
        }
    }
    let mut pairs = Pairs::new();
    let single =
        [("bos", begin), ("padding", padding)].into_iter().filter_map(|(name, id)| Some((name, id?)));
    for (name, id) in single.chain(["eos", "eot", "eom"].into_iter().zip(ends)) {
        if (id as usize) < rows {
            pairs.insert(key(&format!("{name}_token_id")), Value::Unsigned(id.into()));
        }
    }
    if model.tokenizer.is_some() {
        // Left out, these mean something else for each kind of vocabulary.
        pairs.insert(key("add_bos_token"), Value::Bool(before.is_some()));
        pairs.insert(key("add_eos_token"), Value::Bool(after.is_some()));
    }
    Ok(pairs)
}

/// The token that the tokenizer puts before every text, and the one behind it.
fn around(model: &Model) -> Result<(Option<u32>, Option<u32>), GgufError> {
    let Some(tokenizer) = model.tokenizer else { return Ok((None, None)) };
    let (before, after) = tokenizer.marks().map_err(|e| unwritable(format!("fails: {e}")))?;
    match (&before[..], &after[..]) {
        ([] | [_], [] | [_]) => Ok((before.first().copied(), after.first().copied())),
        _ => Err(unwritable("puts several tokens before or behind a text, and only one has a form there")),
    }
}

fn key(name: &str) -> String {
    format!("tokenizer.ggml.{name}")
}

fn vocabulary(tokenizer: &Tokenizer, rows: usize) -> Result<Pairs, GgufError> {
    let json = tokenizer.inner().to_string(false).map_err(|e| unwritable(e.to_string()))?;
    let json: Json = serde_json::from_str(&json).map_err(|e| unwritable(e.to_string()))?;
    if json["model"]["type"] != "BPE" {
        return Err(unwritable(format!(
            "is of the kind {}, only BPE has a form there",
            json["model"]["type"]
        )));
    }
    let tokens = Tokens::new(tokenizer, &json, rows)?;
    if json["model"]["byte_fallback"] == true {
        tokens.sentencepiece(&json)
    } else {
        tokens.byte_level(&json)
    }
}

/// One text and kind for each row of the embedding.
struct Tokens {
    texts: Vec<String>,
    kinds: Vec<i64>,
}

impl Tokens {
    fn new(tokenizer: &Tokenizer, json: &Json, rows: usize) -> Result<Self, GgufError> {
        tokenizer.check_vocabulary(rows).map_err(|e| GgufError::Unwritable { reason: e.to_string() })?;
        // Rows without a token get a name that no text contains.
        let mut texts: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
        let mut kinds = vec![UNUSED; rows];
        for (text, id) in tokenizer.inner().get_vocab(true) {
            texts[id as usize] = text;
            kinds[id as usize] = NORMAL;
        }
        for added in json["added_tokens"].as_array().into_iter().flatten() {
            if let Some(kind) = added["id"].as_u64().and_then(|id| kinds.get_mut(id as usize)) {
                *kind = if added["special"] == true { CONTROL } else { USER_DEFINED };
            }
        }
        Ok(Self { texts, kinds })
    }

    fn pairs(self, model: &str) -> Pairs {
        Pairs::from([
            (key("model"), Value::Text(model.to_owned())),
            (key("tokens"), Value::Texts(self.texts)),
            (key("token_type"), Value::Integers(self.kinds)),
        ])
    }

    fn byte_level(self, json: &Json) -> Result<Pairs, GgufError> {
        let normalizer = &json["normalizer"];
        if !normalizer.is_null() && normalizer["type"] != "NFC" {
            return Err(unwritable(format!(
                "normalises text ({}), which has no form there",
                normalizer["type"]
            )));
        }
        let pre = pretokenizer::name_of(&json["pre_tokenizer"])
            .ok_or_else(|| unwritable("cuts text into words in a way that has no name there"))?;
        let merges = merges(json)?.iter().map(|[left, right]| format!("{left} {right}")).collect();
        let mut pairs = self.pairs("gpt2");
        pairs.insert(key("pre"), Value::Text(pre.to_owned()));
        pairs.insert(key("merges"), Value::Texts(merges));
        Ok(pairs)
    }

    /// SentencePiece knows scores instead of merges: the earlier a token is made, the higher.
    fn sentencepiece(mut self, json: &Json) -> Result<Pairs, GgufError> {
        let merges = merges(json)?;
        let mut ranks = HashMap::new();
        for (rank, [left, right]) in merges.iter().enumerate() {
            ranks.entry(format!("{left}{right}")).or_insert(rank);
        }
        let score = |text: &String| -(*ranks.get(text).unwrap_or(&merges.len()) as f32);
        let scores = self.texts.iter().map(score).collect();
        let unknown = json["model"]["unk_token"].as_str();
        for (text, kind) in self.texts.iter().zip(&mut self.kinds) {
            let is_byte = text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
            match text {
                _ if is_byte => *kind = BYTE,
                text if Some(text.as_str()) == unknown => *kind = UNKNOWN,
                _ => {}
            }
        }
        let mut pairs = self.pairs("llama");
        pairs.insert(key("pre"), Value::Text("default".into()));
        pairs.insert(key("scores"), Value::Floats(scores));
        pairs.insert(key("add_space_prefix"), Value::Bool(adds_space(json)));
        Ok(pairs)
    }
}

/// The merges, which files hold as `"a b"` or as `["a", "b"]`.
fn merges(json: &Json) -> Result<Vec<[String; 2]>, GgufError> {
    let pair = |merge: &Json| -> Option<[String; 2]> {
        if let Some((left, right)) = merge.as_str().and_then(|text| text.split_once(' ')) {
            return Some([left.to_owned(), right.to_owned()]);
        }
        Some([merge[0].as_str()?.to_owned(), merge[1].as_str()?.to_owned()])
    };
    let merges = json["model"]["merges"].as_array().into_iter().flatten().map(pair);
    merges.collect::<Option<_>>().ok_or_else(|| unwritable("has a merge that is no pair"))
}

/// Whether a space is put before the text, by either of the two ways in use.
fn adds_space(json: &Json) -> bool {
    let pre = &json["pre_tokenizer"];
    let steps = json["normalizer"]["normalizers"].as_array();
    let prepends = |step: &Json| step["type"] == "Prepend";
    pre["type"] == "Metaspace" && pre["prepend_scheme"] != "never"
        || prepends(&json["normalizer"])
        || steps.is_some_and(|steps| steps.iter().any(prepends))
}
