use super::*;
use serde_json::{Value as Json, json};
use std::collections::HashMap;

use crate::load::tokenizer::tests::byte_level_json;

/// A GGUF head put together by hand, so that it can be wrong in any way.
#[derive(Default)]
struct Builder {
    pairs: Vec<u8>,
    pair_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data: usize,
}

impl Builder {
    fn text(bytes: &mut Vec<u8>, text: &str) {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    }

    fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        Self::text(&mut self.pairs, key);
        self.pairs.extend(kind.to_le_bytes());
        self.pairs.extend(value);
        self.pair_count += 1;
        self
    }

    fn tensor(mut self, name: &str, axes: &[u64], kind: u32, offset: u64) -> Self {
        Self::text(&mut self.tensors, name);
        self.tensors.extend((axes.len() as u32).to_le_bytes());
        axes.iter().for_each(|axis| self.tensors.extend(axis.to_le_bytes()));
        self.tensors.extend(kind.to_le_bytes());
        self.tensors.extend(offset.to_le_bytes());
        self.tensor_count += 1;
        self
    }

    fn data(mut self, bytes: usize) -> Self {
        self.data = bytes;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(self.tensor_count.to_le_bytes());
        bytes.extend(self.pair_count.to_le_bytes());
        bytes.extend(&self.pairs);
        bytes.extend(&self.tensors);
        bytes.resize(bytes.len().next_multiple_of(32) + self.data, 0);
        bytes
    }
}

fn fault_of<T: std::fmt::Debug>(result: Result<T, LoadError>) -> GgufError {
    match result {
        Err(LoadError::Gguf { source, .. }) => *source,
        other => panic!("expected a fault of the format, got {other:?}"),
    }
}

fn fault(bytes: Vec<u8>) -> GgufError {
    fault_of(parse(&Source::memory("test", bytes)))
}

#[test]
fn every_fault_of_the_head_has_its_name() {
    use GgufError as E;
    let new = Builder::default;
    assert!(matches!(fault(vec![]), E::NotGguf));
    assert!(matches!(fault(vec![7; 100]), E::NotGguf));
    let head = |version: u32, tensors: u64, pairs: u64| {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(pairs.to_le_bytes());
        bytes
    };
    assert!(matches!(fault(head(1, 0, 0)), E::Version { version: 1 }));
    assert!(matches!(fault(head(3u32.swap_bytes(), 0, 0)), E::BigEndian));
    assert!(matches!(fault(head(3, u64::MAX, 0)), E::TooMany { what: "tensors", .. }));
    assert!(matches!(fault(head(3, 0, u64::MAX)), E::TooMany { what: "metadata keys", .. }));
    assert!(matches!(fault(new().pair("a", 13, &[0; 40]).bytes()), E::ValueType { kind: 13, .. }));
    assert!(matches!(fault(new().pair("a", 8, &u64::MAX.to_le_bytes()).bytes()), E::TooMany { .. }));
    let array = |kind: u32, count: u64| [kind.to_le_bytes().to_vec(), count.to_le_bytes().to_vec()].concat();
    assert!(matches!(
        fault(new().pair("a", 9, &array(4, 1 << 62)).bytes()),
        E::TooMany { what: "array items", .. }
    ));
    assert!(matches!(fault(new().pair("a", 9, &array(9, 1)).bytes()), E::ValueType { kind: 9, .. }));
    assert!(matches!(fault(new().pair("a", 0, &[1]).pair("a", 0, &[1]).bytes()), E::DuplicateKey { .. }));
    let mut not_text = new().pair("a", 0, &[1]);
    not_text.pairs[8] = 0xff;
    assert!(matches!(fault(not_text.bytes()), E::NotText { .. }));
    let alignment = new().pair("general.alignment", 4, &33u32.to_le_bytes());
    assert!(matches!(fault(alignment.bytes()), E::WrongValue { .. }));
    assert!(matches!(fault(new().tensor("t", &[], 0, 0).bytes()), E::Rank { rank: 0, .. }));
    assert!(matches!(fault(new().tensor("t", &[1; 9], 0, 0).bytes()), E::Rank { rank: 9, .. }));
    let iq4 = fault(new().tensor("t", &[32], 23, 0).bytes());
    assert!(iq4.to_string().contains("IQ4_XS"), "{iq4}");
    assert!(matches!(fault(new().tensor("t", &[33], 8, 0).bytes()), E::Shape { .. }));
    assert!(matches!(fault(new().tensor("t", &[1 << 40, 1 << 40], 0, 0).bytes()), E::Shape { .. }));
    assert!(matches!(fault(new().tensor("t", &[0], 0, 0).bytes()), E::Shape { .. }));
    assert!(matches!(fault(new().tensor("t", &[2], 0, 4).data(64).bytes()), E::Misaligned { .. }));
    assert!(matches!(fault(new().tensor("t", &[2], 0, 0).data(7).bytes()), E::OutOfBounds { .. }));
    assert!(matches!(
        fault(new().tensor("t", &[2], 0, u64::MAX - 31).data(9).bytes()),
        E::OutOfBounds { .. }
    ));
    let twice = new().tensor("t", &[2], 0, 0).tensor("t", &[2], 0, 32).data(64);
    assert!(matches!(fault(twice.bytes()), E::DuplicateTensor { .. }));
    let overlap = new().tensor("t", &[16], 0, 0).tensor("u", &[16], 0, 32).data(96);
    assert!(matches!(fault(overlap.bytes()), E::Overlap { .. }));
}

#[test]
fn any_truncation_is_an_error() {
    let mut bytes = Vec::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    write(&path, &config("llama"), true).unwrap();
    bytes.extend(std::fs::read(&path).unwrap());
    assert!(from_source(Source::memory("whole", bytes.clone())).is_ok());
    for len in (0..bytes.len() - 32).step_by(61) {
        let result = from_source(Source::memory("cut", bytes[..len].to_vec()));
        assert!(matches!(result, Err(LoadError::Gguf { .. })), "cut to {len} bytes");
    }
}

#[test]
fn unsupported_models_are_refused_by_name() {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let open = |builder: Builder| fault_of(from_source(Source::memory("test", builder.bytes())));
    let mamba = open(Builder::default().pair("general.architecture", 8, &text("mamba")));
    assert!(mamba.to_string().contains("\"mamba\"") && mamba.to_string().contains("qwen3"), "{mamba}");
    assert!(matches!(open(Builder::default()), GgufError::MissingKey { .. }));
    let split = Builder::default().pair("split.count", 2, &[3, 0]);
    assert!(matches!(open(split), GgufError::Split { count: 3 }));
    let wrong = Builder::default().pair("general.architecture", 4, &[0; 4]);
    assert!(matches!(open(wrong), GgufError::WrongValue { .. }));
}

fn config(family: &str) -> Json {
    json!({
        "model_type": family, "vocab_size": 260, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "hidden_act": "silu", "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 500000.0,
        "tie_word_embeddings": false, "bos_token_id": 258, "eos_token_id": 258,
    })
}

/// Tensors of a model, each with its own values.
fn tensors(config: &Json) -> HashMap<String, RawTensor> {
    let mut shapes =
        vec![("model.embed_tokens.weight".to_owned(), vec![260, 32]), ("model.norm.weight".into(), vec![32])];
    shapes.push(("lm_head.weight".into(), vec![260, 32]));
    for layer in 0..2 {
        let mut add = |name: &str, shape: &[usize]| {
            shapes.push((format!("model.layers.{layer}.{name}"), shape.to_vec()))
        };
        add("input_layernorm.weight", &[32]);
        add("post_attention_layernorm.weight", &[32]);
        add("self_attn.q_proj.weight", &[32, 32]);
        add("self_attn.k_proj.weight", &[16, 32]);
        add("self_attn.v_proj.weight", &[16, 32]);
        add("self_attn.o_proj.weight", &[32, 32]);
        if config["model_type"] == "mixtral" {
            add("block_sparse_moe.gate.weight", &[3, 32]);
            for expert in 0..3 {
                add(&format!("block_sparse_moe.experts.{expert}.w1.weight"), &[64, 32]);
                add(&format!("block_sparse_moe.experts.{expert}.w2.weight"), &[32, 64]);
                add(&format!("block_sparse_moe.experts.{expert}.w3.weight"), &[64, 32]);
            }
            continue;
        }
        if config["model_type"] == "qwen2" {
            add("self_attn.q_proj.bias", &[32]);
        }
        add("mlp.gate_proj.weight", &[64, 32]);
        add("mlp.up_proj.weight", &[64, 32]);
        add("mlp.down_proj.weight", &[32, 64]);
    }
    let fill = |(seed, (name, shape)): (usize, (String, Vec<usize>))| {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| ((i * 37 + seed * 101) % 1009) as f32 / 256.0).collect();
        (name, RawTensor::from_f32(shape, &values))
    };
    shapes.into_iter().enumerate().map(fill).collect()
}

fn write(path: &Path, config: &Json, with_tokenizer: bool) -> Result<HashMap<String, RawTensor>, LoadError> {
    let tokenizer = Tokenizer::from_json(byte_level_json().to_string().as_bytes(), path)?;
    let template = ChatTemplate::new("{{ eos_token }}", SpecialTokens::default(), path)?;
    write_with(path, config, with_tokenizer.then_some(&tokenizer), &template)
}

fn write_with(
    path: &Path,
    config: &Json,
    tokenizer: Option<&Tokenizer>,
    template: &ChatTemplate,
) -> Result<HashMap<String, RawTensor>, LoadError> {
    let tensors = tensors(config);
    let infos: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.info())).collect();
    let model = Model { config, tokenizer, chat_template: Some(template), tensors: &infos };
    save(path, &model, &tensors)?;
    Ok(tensors)
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    for family in ["llama", "qwen2", "qwen3", "mistral", "mixtral"] {
        let mut config = config(family);
        match family {
            "mistral" => config["sliding_window"] = json!(64),
            "mixtral" => {
                config["num_local_experts"] = json!(3);
                config["num_experts_per_tok"] = json!(2);
            }
            _ => {}
        }
        let tensors = write(&path, &config, true).unwrap();
        let files = open(&path).unwrap();
        for (key, value) in config.as_object().unwrap() {
            assert_eq!(&files.config[key], value, "{family} {key}");
        }
        assert_eq!(files.weights.names().len(), tensors.len());
        for (name, tensor) in &tensors {
            assert_eq!(&files.weights.read(name).unwrap(), tensor, "{family} {name}");
        }
        assert_eq!(files.generation.eos_token_id, [258]);
    }
}

#[test]
fn the_tokenizer_goes_along() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    write(&path, &config("llama"), true).unwrap();
    let files = open(&path).unwrap();
    let tokenizer = files.tokenizer.unwrap();
    let own = Tokenizer::from_json(byte_level_json().to_string().as_bytes(), &path).unwrap();
    for text in ["hello hell", " it's 1234\n\n  ü🦀", "<|end|>a<|end|>", ""] {
        assert_eq!(tokenizer.encode(text, true).unwrap(), own.encode(text, true).unwrap(), "{text:?}");
    }
    assert_eq!(tokenizer.eos(), [258]);
    assert_eq!(files.chat_template.unwrap().render(&[], true).unwrap(), "<|end|>");
    write(&path, &config("llama"), false).unwrap();
    assert!(open(&path).unwrap().tokenizer.is_none());
}

/// A byte-fallback tokenizer that puts `before` and `behind` (ids, as far as there are some) around every text.
fn byte_fallback(before: &[u32], behind: &[u32]) -> Tokenizer {
    let tokens = ["<unk>", "<s>", "</s>", "<end>", "▁", "a", "b", "▁a", "▁ab"];
    let vocab: serde_json::Map<_, _> =
        tokens.iter().enumerate().map(|(id, &token)| (token.to_owned(), json!(id))).collect();
    let piece = |&id: &u32| json!({"SpecialToken": {"id": tokens[id as usize], "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let around: Vec<_> =
        before.iter().map(piece).chain([text.clone()]).chain(behind.iter().map(piece)).collect();
    let named: serde_json::Map<_, _> = (0..4)
        .map(|id| (tokens[id].to_owned(), json!({"id": tokens[id], "ids": [id], "tokens": [tokens[id]]})))
        .collect();
    let added: Vec<_> = (0..4)
        .map(|id| {
            json!({"id": id, "content": tokens[id], "special": true, "normalized": false, "single_word": false,
                   "lstrip": false, "rstrip": false})
        })
        .collect();
    let json = json!({
        "version": "1.0", "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "post_processor": {"type": "TemplateProcessing", "single": around, "pair": [text], "special_tokens": named},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "byte_fallback": true, "unk_token": "<unk>", "vocab": vocab,
                  "merges": ["▁ a", "▁a b"]},
    });
    Tokenizer::from_json(json.to_string().as_bytes(), Path::new("test")).unwrap()
}

#[test]
fn marks_around_a_text_are_those_of_the_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let plain = ChatTemplate::new("{{ bos_token }}", SpecialTokens::default(), &path).unwrap();
    let cases: [(&[u32], &[u32]); 4] = [(&[1], &[]), (&[], &[]), (&[1], &[2]), (&[], &[3])];
    for (before, behind) in cases {
        let tokenizer = byte_fallback(before, behind);
        let wanted = [before, &[8], behind].concat();
        assert_eq!(tokenizer.encode("ab", true).unwrap(), wanted);
        // What the configuration says is right, wrong, or not there.
        for bos in [json!(1), json!(0), json!(null), json!(-1)] {
            let mut config = config("llama");
            config["bos_token_id"] = bos;
            config["eos_token_id"] = json!([2, 3]);
            write_with(&path, &config, Some(&tokenizer), &plain).unwrap();
            let read = open(&path).unwrap().tokenizer.unwrap();
            assert_eq!(read.encode("ab", true).unwrap(), wanted, "{}", config["bos_token_id"]);
            assert_eq!(read.encode("ab", false).unwrap(), [8]);
            assert_eq!(read.eos(), [2, 3]);
        }
    }
    let error = write_with(&path, &config("llama"), Some(&byte_fallback(&[1, 3], &[])), &plain);
    assert!(matches!(fault_of(error), GgufError::Unwritable { .. }));
}

#[test]
fn templates_keep_the_tokens_that_they_insert() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let [bos, eos] = ["<s>", "<end>"].map(|token| Some(token.to_owned()));
    let tokens = SpecialTokens { bos, eos, ..Default::default() };
    let template = ChatTemplate::new("{{ bos_token }}x{{ eos_token }}", tokens, &path).unwrap();
    let mut config = config("llama");
    for id in [json!(0), json!(null)] {
        config["bos_token_id"] = id;
        config["eos_token_id"] = json!(2);
        write_with(&path, &config, Some(&byte_fallback(&[], &[])), &template).unwrap();
        let files = open(&path).unwrap();
        assert_eq!(files.chat_template.unwrap().render(&[], true).unwrap(), "<s>x<end>");
        assert_eq!(files.generation.eos_token_id, [2, 3]);
    }
}

#[test]
fn a_llama_vocabulary_without_marks_begins_as_in_llama_cpp() {
    let mut metadata = Metadata::default();
    let mut set = |key: &str, value| metadata.insert(&format!("tokenizer.ggml.{key}"), value);
    set("model", Value::Text("llama".into()));
    set("tokens", Value::Texts(["<unk>", "<s>", "</s>", "▁a", "▁", "a"].map(str::to_owned).to_vec()));
    set("token_type", Value::Integers(vec![2, 3, 3, 1, 1, 1]));
    let read = |metadata: &Metadata| {
        read_tokenizer(metadata, Path::new("test")).unwrap().unwrap().encode("a", true).unwrap()
    };
    assert_eq!(read(&metadata), [1, 3]);
    metadata.insert("tokenizer.ggml.add_bos_token", Value::Bool(false));
    assert_eq!(read(&metadata), [3]);
}

#[test]
fn rope_scalings_keep_their_meaning() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let mut config = config("llama");
    for scaling in [
        json!({"rope_type": "linear", "factor": 4.0}),
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}),
    ] {
        config["rope_scaling"] = scaling;
        write(&path, &config, false).unwrap();
        assert_eq!(open(&path).unwrap().config["rope_scaling"], config["rope_scaling"]);
    }
    config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    write(&path, &config, false).unwrap();
    let read = open(&path).unwrap();
    // Wavelengths of base 500000 and 8 dimensions: 6, 167, 4443, 118140; the ramp runs from 2048 to 8192.
    let factors: Vec<f64> = read.config["rope_scaling"]["factors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f.as_f64().unwrap())
        .collect();
    assert_eq!((factors[0], factors[1], factors[3]), (1.0, 1.0, 8.0));
    assert!(factors[2] > 1.0 && factors[2] < 8.0);
    assert_eq!(read.weights.names().len(), tensors(&config).len());
    config["rope_scaling"] = json!({"rope_type": "dynamic", "factor": 4.0});
    assert!(matches!(fault_of(write(&path, &config, false)), GgufError::Unwritable { .. }));
}

#[test]
fn what_the_format_cannot_say_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let mut other = config("gpt2");
    assert!(matches!(fault_of(write(&path, &other, false)), GgufError::Architecture { .. }));
    other["model_type"] = json!("llama");
    other["hidden_act"] = json!("gelu");
    assert!(matches!(fault_of(write(&path, &other, false)), GgufError::Unwritable { .. }));
    other["hidden_act"] = json!("silu");
    other["num_attention_heads"] = json!(3);
    assert!(matches!(fault_of(write(&path, &other, false)), GgufError::Heads { .. }));
    other["hidden_size"] = json!("wide");
    assert!(matches!(fault_of(write(&path, &other, false)), GgufError::Unwritable { .. }));
    assert!(!path.exists());
}

#[test]
fn sentencepiece_scores_become_merges() {
    let tokens = ["<unk>", "<s>", "</s>", "<0xC3>", "▁", "a", "b", "ab", "▁ab", "▁a"];
    let mut metadata = Metadata::default();
    let mut set = |key: &str, value| metadata.insert(&format!("tokenizer.ggml.{key}"), value);
    set("model", Value::Text("llama".into()));
    set("tokens", Value::Texts(tokens.map(str::to_owned).to_vec()));
    set("token_type", Value::Integers(vec![2, 3, 3, 6, 1, 1, 1, 1, 1, 1]));
    set("scores", Value::Floats(vec![0.0, 0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -2.0, -3.0, -1.0]));
    set("bos_token_id", Value::Unsigned(1));
    set("eos_token_id", Value::Unsigned(2));
    let tokenizer = read_tokenizer(&metadata, Path::new("test")).unwrap().unwrap();
    // "▁a" scores above "ab", so "▁ab" is reached from "▁a" and "b".
    assert_eq!(tokenizer.encode("ab", true).unwrap(), [1, 8]);
    assert_eq!(tokenizer.encode("aab", false).unwrap(), [9, 7]);
    assert_eq!(tokenizer.decode(&[1, 8, 4, 7], true).unwrap(), "ab ab");
    assert_eq!(tokenizer.eos(), [2]);
    metadata.insert("tokenizer.ggml.scores", Value::Floats(vec![0.0]));
    assert!(matches!(fault_of(read_tokenizer(&metadata, Path::new("test"))), GgufError::Tokenizer { .. }));
    metadata.insert("tokenizer.ggml.model", Value::Text("rwkv".into()));
    assert!(matches!(fault_of(read_tokenizer(&metadata, Path::new("test"))), GgufError::Tokenizer { .. }));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(tail: Vec<u8>, flips in proptest::collection::vec((0usize..200, 0u8..=255), 0..6)) {
        let whole = Builder::default().pair("a", 9, &[8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut bytes = whole.tensor("token_embd.weight", &[2, 2], 0, 0).data(32).bytes();
        bytes.extend(tail);
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let _ = from_source(Source::memory("random", bytes));
    }
}
