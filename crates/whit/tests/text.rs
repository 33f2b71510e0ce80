//! Tokenizers and chat templates against what transformers makes of the same files (`tools/fixtures_text.py`).

use std::path::{Path, PathBuf};

use serde_json::Value;
use whit::load::{ChatTemplate, Message, SpecialTokens, Tokenizer};

const FOLDERS: [&str; 2] = ["byte-level", "byte-fallback"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tokenizers").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn template(folder: &Path) -> ChatTemplate {
    let config = json(&folder.join("tokenizer_config.json"));
    let own = std::fs::read_to_string(folder.join("chat_template.jinja"));
    let source = own.unwrap_or_else(|_| config["chat_template"].as_str().unwrap().to_owned());
    let token = |key: &str| config[key].as_str().map(str::to_owned);
    let tokens = SpecialTokens { bos: token("bos_token"), eos: token("eos_token"), ..Default::default() };
    ChatTemplate::new(&source, tokens, folder).unwrap()
}

#[test]
fn texts_become_the_same_tokens_and_back() {
    for name in FOLDERS {
        let folder = folder(name);
        let tokenizer = Tokenizer::open(&folder.join("tokenizer.json")).unwrap();
        let expected = json(&folder.join("expected.json"));
        assert_eq!(tokenizer.vocab_size() as u64, expected["vocab_size"].as_u64().unwrap());
        for record in expected["texts"].as_array().unwrap() {
            let text = record["text"].as_str().unwrap();
            let (special, plain) = (ids(&record["ids"]), ids(&record["ids_plain"]));
            assert_eq!(tokenizer.encode(text, true).unwrap(), special, "{name}: {text:?}");
            assert_eq!(tokenizer.encode(text, false).unwrap(), plain, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&special, false).unwrap(), record["decoded"].as_str().unwrap());
            assert_eq!(tokenizer.decode(&special, true).unwrap(), record["decoded_plain"].as_str().unwrap());
        }
    }
}

#[test]
fn chats_are_rendered_the_same() {
    for name in FOLDERS {
        let folder = folder(name);
        let template = template(&folder);
        for record in json(&folder.join("expected.json"))["chats"].as_array().unwrap() {
            let turns = record["messages"].as_array().unwrap().iter();
            let turns: Vec<_> = turns
                .map(|turn| Message::new(turn["role"].as_str().unwrap(), turn["content"].as_str().unwrap()))
                .collect();
            let prompt = record["add_generation_prompt"].as_bool().unwrap();
            assert_eq!(template.render(&turns, prompt).unwrap(), record["text"].as_str().unwrap(), "{name}");
        }
    }
}

#[test]
fn a_template_may_refuse_a_chat() {
    let template = template(&folder("byte-fallback"));
    let error = template.render(&[Message::new("assistant", "I speak first")], true).unwrap_err().to_string();
    assert!(error.contains("user and assistant must take turns"), "{error}");
}
