//! The vocabulary inside a GGUF file as a tokenizer.json.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value, json};

use super::pretokenizer;
use super::{GgufError, Metadata};

/// Longest token that is taken apart into merges, in characters.
const LONGEST_PIECE: usize = 128;

/// Kinds of tokens, as numbered in `tokenizer.ggml.token_type`.
pub(super) const NORMAL: i64 = 1;
pub(super) const UNKNOWN: i64 = 2;
pub(super) const CONTROL: i64 = 3;
pub(super) const USER_DEFINED: i64 = 4;
pub(super) const UNUSED: i64 = 5;
pub(super) const BYTE: i64 = 6;

/// Tokens that end a turn in the conversations of well-known models.
const ENDS_OF_TURN: [&str; 6] =
    ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|eom_id|>", "<|endoftext|>"];

/// A tokenizer ready to be built.
pub(super) struct Described {
    /// The tokenizer.json.
    pub json: Value,
    /// Ids that end a text.
    pub eos: BTreeSet<u32>,
}

struct Vocabulary<'a> {
    metadata: &'a Metadata,
    tokens: &'a [String],
    kinds: &'a [i64],
}

/// Describes the file's tokenizer; `None` if it has none.
pub(super) fn describe(metadata: &Metadata) -> Result<Option<Described>, GgufError> {
    let model = match metadata.text_if("tokenizer.ggml.model")? {
        None | Some("no_vocab" | "none") => return Ok(None),
        Some(model) => model,
    };
    let vocabulary = Vocabulary::new(metadata)?;
    let mut json = match model {
        "gpt2" => vocabulary.byte_level()?,
        "llama" => vocabulary.sentencepiece()?,
        other => {
            let reason = format!("its kind {other:?} is not supported; gpt2 and llama are");
            return Err(GgufError::Tokenizer { reason });
        }
    };
    json["version"] = json!("1.0");
    json["added_tokens"] = vocabulary.added_tokens();
    json["post_processor"] = vocabulary.post_processor(model)?;
    Ok(Some(Described { json, eos: vocabulary.ends()? }))
}

impl<'a> Vocabulary<'a> {
    fn new(metadata: &'a Metadata) -> Result<Self, GgufError> {
        let tokens = metadata.texts_if("tokenizer.ggml.tokens")?.filter(|tokens| !tokens.is_empty());
        let tokens = tokens.ok_or_else(|| GgufError::MissingKey {
            key: "tokenizer.ggml.tokens".into(),
            wanted: "a list of strings".into(),
        })?;
        let kinds = metadata.integers_if("tokenizer.ggml.token_type")?.unwrap_or(&[]);
        let vocabulary = Self { metadata, tokens, kinds };
        vocabulary.check_length("token types", kinds.len())?;
        Ok(vocabulary)
    }

    /// A list that goes with the tokens has as many items, or is absent.
    fn check_length(&self, what: &str, len: usize) -> Result<(), GgufError> {
        if len == 0 || len == self.tokens.len() {
            return Ok(());
        }
        Err(GgufError::Tokenizer { reason: format!("it has {} tokens but {len} {what}", self.tokens.len()) })
    }

    fn kind(&self, id: usize) -> i64 {
        self.kinds.get(id).copied().unwrap_or(NORMAL)
    }

    fn vocab(&self) -> Map<String, Value> {
        self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect()
    }

    fn byte_level(&self) -> Result<Value, GgufError> {
        let merges = self.metadata.texts_if("tokenizer.ggml.merges")?.unwrap_or(&[]);
        let words = pretokenizer::named(self.metadata.text_if("tokenizer.ggml.pre")?.unwrap_or("default"))?;
        let pairs: Option<Vec<_>> = merges.iter().map(|merge| split_merge(merge)).collect();
        let pairs =
            pairs.ok_or_else(|| GgufError::Tokenizer { reason: "a merge is no pair of tokens".into() })?;
        Ok(json!({
            "pre_tokenizer": words.json,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": self.vocab(), "merges": pairs, "ignore_merges": words.ignore_merges},
        }))
    }

    fn sentencepiece(&self) -> Result<Value, GgufError> {
        let scores = self.metadata.floats_if("tokenizer.ggml.scores")?.unwrap_or(&[]);
        self.check_length("scores", scores.len())?;
        let prefix = self.metadata.bool_if("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let prepend = json!({"type": "Prepend", "prepend": "▁"});
        let normalizers = if prefix { vec![prepend, replace] } else { vec![replace] };
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let unknown = (0..self.tokens.len()).find(|&id| self.kind(id) == UNKNOWN).map(|id| &self.tokens[id]);
        Ok(json!({
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "BPE", "vocab": self.vocab(), "merges": self.merges(scores), "unk_token": unknown,
                      "fuse_unk": true, "byte_fallback": true},
        }))
    }

    /// SentencePiece joins the pair whose union scores highest: as merges, all pairs sorted by that score.
    fn merges(&self, scores: &[f32]) -> Vec<[String; 2]> {
        let ids: HashMap<&str, usize> =
            self.tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
        let score = |id: usize| scores.get(id).copied().unwrap_or(-(id as f32));
        let mut merges = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if self.kind(id) != NORMAL || token.chars().nth(LONGEST_PIECE).is_some() {
                continue;
            }
            let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
            let mut pairs: Vec<_> =
                cuts.filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?))).collect();
            pairs.sort_unstable();
            merges.extend(pairs.into_iter().map(|pair| (score(id), pair)));
        }
        merges.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        merges.into_iter().map(|(_, (a, b))| [self.tokens[a].clone(), self.tokens[b].clone()]).collect()
    }

    fn added_tokens(&self) -> Value {
        let marks =
            (0..self.tokens.len()).filter(|&id| matches!(self.kind(id), UNKNOWN | CONTROL | USER_DEFINED));
        let entries = marks.filter(|&id| !self.tokens[id].is_empty()).map(|id| {
            let special = self.kind(id) != USER_DEFINED;
            json!({"id": id, "content": self.tokens[id], "special": special, "normalized": false,
                   "single_word": false, "lstrip": false, "rstrip": false})
        });
        entries.collect()
    }

    fn special_id(&self, name: &str) -> Result<Option<usize>, GgufError> {
        let highest = self.tokens.len() - 1;
        self.metadata.usize_if(&format!("tokenizer.ggml.{name}_token_id"), 0..=highest)
    }

    /// The token of the beginning; llama.cpp takes SentencePiece's usual one where a `llama` vocabulary names none.
    fn beginning(&self, model: &str) -> Result<Option<usize>, GgufError> {
        let usual = (model == "llama" && self.kind(1) == CONTROL && self.tokens.len() > 1).then_some(1);
        Ok(self.special_id("bos")?.or(usual))
    }

    /// Adds the tokens of beginning and end where the file asks for them, or is known to mean them.
    fn post_processor(&self, model: &str) -> Result<Value, GgufError> {
        let metadata = self.metadata;
        let llama3 =
            matches!(metadata.text_if("tokenizer.ggml.pre")?, Some("llama-bpe" | "llama3" | "llama-v3"));
        let bos = metadata.bool_if("tokenizer.ggml.add_bos_token")?.unwrap_or(model == "llama" || llama3);
        let eos = metadata.bool_if("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let bos = if bos { self.beginning(model)? } else { None };
        let eos = if eos { self.special_id("eos")? } else { None };
        if bos.is_none() && eos.is_none() {
            return Ok(Value::Null);
        }
        let piece = |id: usize| json!({"SpecialToken": {"id": self.tokens[id], "type_id": 0}});
        let around = |sequence: &str| {
            let text = json!({"Sequence": {"id": sequence, "type_id": 0}});
            bos.map(piece).into_iter().chain([text]).chain(eos.map(piece)).collect::<Vec<_>>()
        };
        let special: Map<_, _> = bos
            .iter()
            .chain(&eos)
            .map(|&id| {
                (
                    self.tokens[id].clone(),
                    json!({"id": self.tokens[id], "ids": [id], "tokens": [self.tokens[id]]}),
                )
            })
            .collect();
        let pair = [around("A"), around("B")].concat();
        Ok(
            json!({"type": "TemplateProcessing", "single": around("A"), "pair": pair, "special_tokens": special}),
        )
    }

    fn ends(&self) -> Result<BTreeSet<u32>, GgufError> {
        let mut ends = BTreeSet::new();
        for name in ["eos", "eot", "eom"] {
            ends.extend(self.special_id(name)?.map(|id| id as u32));
        }
        let known = (0..self.tokens.len())
            .filter(|&id| self.kind(id) == CONTROL && ENDS_OF_TURN.contains(&self.tokens[id].as_str()));
        ends.extend(known.map(|id| id as u32));
        Ok(ends)
    }
}

/// A merge is written `left right`; the first character may itself be a space.
fn split_merge(merge: &str) -> Option<[&str; 2]> {
    let at = merge.char_indices().skip(1).find(|(_, letter)| *letter == ' ')?.0;
    Some([&merge[..at], &merge[at + 1..]])
}
