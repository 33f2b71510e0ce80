//! How text is cut into words before byte-level merges, by the name that GGUF gives each way.

use serde_json::{Value, json};

use super::GgufError;

/// One way of cutting: its names in GGUF (the first is written) and its patterns, applied in turn.
struct Kind {
    names: &'static [&'static str],
    patterns: &'static [&'static str],
    /// Whole words of the vocabulary are taken before merges are tried.
    ignore_merges: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const KINDS: [Kind; 7] = [
    Kind { names: &["llama-bpe", "llama3", "llama-v3"], patterns: &[LLAMA3], ignore_merges: true },
    Kind {
        names: &["qwen2", "stablelm2", "deepseek-r1-qwen", "megrez"],
        patterns: &[QWEN2],
        ignore_merges: false,
    },
    Kind {
        names: &["gpt-2", "phi-2", "jina-es", "jina-de", "olmo", "mpt", "gpt2"],
        patterns: &[GPT2],
        ignore_merges: false,
    },
    Kind {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"],
        patterns: &[r"\p{N}", GPT2],
        ignore_merges: false,
    },
    Kind { names: &["tekken"], patterns: &[TEKKEN], ignore_merges: true },
    Kind {
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
        ignore_merges: false,
    },
    Kind {
        names: &["falcon"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"],
        ignore_merges: false,
    },
];

/// What `tokenizer.ggml.pre` asks for.
pub(super) struct Words {
    /// The `pre_tokenizer` of a tokenizer.json.
    pub json: Value,
    /// See the model's field of the same name.
    pub ignore_merges: bool,
}

/// The pre-tokenizer of this GGUF name.
pub(super) fn named(name: &str) -> Result<Words, GgufError> {
    let kind = KINDS.iter().find(|kind| kind.names.contains(&name)).ok_or_else(|| {
        let known: Vec<_> = KINDS.iter().map(|kind| kind.names[0]).collect();
        let reason = format!("its pre-tokenizer {name:?} is not known; known are {}", known.join(", "));
        GgufError::Tokenizer { reason }
    })?;
    let mut steps: Vec<_> = kind.patterns.iter().map(|pattern| split(pattern)).collect();
    steps.push(byte_level(false));
    Ok(Words { json: json!({"type": "Sequence", "pretokenizers": steps}), ignore_merges: kind.ignore_merges })
}

fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

/// GGUF's name for the pre-tokenizer of a tokenizer.json, if there is one that cuts in the same way.
pub(super) fn name_of(pre_tokenizer: &Value) -> Option<&'static str> {
    let found = patterns(pre_tokenizer)?;
    let same = |kind: &&Kind| {
        kind.patterns.len() == found.len() && kind.patterns.iter().zip(&found).all(|(a, b)| a == b)
    };
    KINDS.iter().find(same).map(|kind| kind.names[0])
}

/// The patterns of a chain of splits that ends with bytes; `None` for anything else.
fn patterns(step: &Value) -> Option<Vec<String>> {
    match step["type"].as_str()? {
        "Sequence" => {
            let steps = step["pretokenizers"].as_array()?.iter().map(patterns);
            Some(steps.collect::<Option<Vec<_>>>()?.concat())
        }
        "ByteLevel" if step["add_prefix_space"] == json!(true) => None,
        "ByteLevel" if step["use_regex"] == json!(false) => Some(vec![]),
        "ByteLevel" => Some(vec![GPT2.to_owned()]),
        "Digits" if step["individual_digits"] == json!(true) => Some(vec![r"\p{N}".to_owned()]),
        "Split" if step["behavior"] == "Isolated" && step["invert"] != json!(true) => {
            Some(vec![step["pattern"]["Regex"].as_str()?.to_owned()])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_again() {
        for kind in &KINDS {
            let words = named(kind.names[0]).unwrap();
            assert_eq!(name_of(&words.json), Some(kind.names[0]));
            let parsed: Result<tokenizers::PreTokenizerWrapper, _> = serde_json::from_value(words.json);
            assert!(parsed.is_ok(), "{}", kind.names[0]);
        }
        assert_eq!(name_of(&byte_level(true)), Some("gpt-2"));
        let digits = json!({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, byte_level(true)]});
        assert_eq!(name_of(&digits), Some("smollm"));
        assert_eq!(name_of(&json!({"type": "Whitespace"})), None);
        assert!(named("nonsense").is_err());
    }
}
