//! GGUF files made by llama.cpp's quantiser (`tools/make_gguf_fixtures.py`): the same tokens, and logits as close as
//! the number types allow: both programs round activations to 8 bits where weights are quantised, each in its own way.

use std::path::{Path, PathBuf};

use whit::load::safetensors::Safetensors;
use whit::load::{self, Checkpoint, ModelFiles};
use whit::models;
use whit::models::forward::{self, Inputs};
use whit::nn::vars::{Precision, Storage};
use whit_kernels::linear::{WeightType, blocks};

/// Names, and how far logits may be from llama.cpp's, relative to the largest.
const FILES: [(&str, f32); 5] = [
    ("llama-f32", 1e-4),
    ("llama-q8_0", 0.05),
    ("llama-q4_k_m", 0.05),
    ("qwen2-q8_0", 0.05),
    ("qwen3-q8_0", 0.05),
];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf").join(name)
}

fn open(name: &str) -> ModelFiles {
    load::open(path(name).join("model.gguf").to_str().unwrap(), &load::Options::default()).unwrap()
}

/// Our logits and a peer's, each `[tokens, vocabulary]`, and the vocabulary's size.
fn logits(name: &str, precision: Precision, peer: &str) -> (Vec<f32>, Vec<f32>, usize) {
    let files = open(name);
    let model =
        models::decoder(&files.config, files.weights.as_ref(), &Storage::Packed(precision), &|_| {}).unwrap();
    let [input, golden] = ["input.safetensors", "expected.safetensors"]
        .map(|file| Safetensors::open(&path(name).join(file)).unwrap());
    let ours = forward::forward(&model, true, &Inputs::read(&input, &model).unwrap());
    let theirs = golden.read(peer).unwrap().to_f32(peer).unwrap();
    (ours[0].1.to_f32("logits").unwrap(), theirs, model.config().vocab_size)
}

fn top(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

fn compare(name: &str, tolerance: f32, precision: Precision, peer: &str) {
    let (ours, theirs, vocabulary) = logits(name, precision, peer);
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
    assert!(worst <= tolerance, "{name} at {precision}: off by {worst:.1e} of the largest logit");
    let rows = ours.chunks(vocabulary).zip(theirs.chunks(vocabulary));
    let agree = rows.filter(|(ours, theirs)| top(ours) == top(theirs)).count();
    assert!(agree * vocabulary * 10 >= ours.len() * 8, "{name} at {precision}: top tokens differ");
}

#[test]
fn logits_equal_llama_cpps() {
    for (name, tolerance) in FILES {
        compare(name, tolerance, Precision::Native, "logits");
    }
}

#[test]
fn unpacked_weights_give_transformers_logits() {
    for (name, _) in FILES {
        compare(name, 1e-4, Precision::Fixed(WeightType::F32), "logits_f32");
    }
}

#[test]
fn tokens_equal_llama_cpps() {
    for (name, _) in FILES {
        let tokenizer = open(name).tokenizer.unwrap();
        let texts = std::fs::read_to_string(path(name).join("texts.json")).unwrap();
        let texts: Vec<serde_json::Value> = serde_json::from_str(&texts).unwrap();
        for record in texts {
            let ids: Vec<u32> = serde_json::from_value(record["ids"].clone()).unwrap();
            let text = record["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, true).unwrap(), ids, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), text, "{name}");
        }
    }
}

#[test]
fn the_chat_template_is_found() {
    let template = open("llama-q8_0").chat_template.unwrap();
    let text = template.render(&[load::Message::new("user", " Hello ")], true).unwrap();
    assert_eq!(text, "<|user|>\nHello<|end|>\n<|assistant|>\n");
}

#[test]
fn blocks_are_read_as_the_gguf_package_reads_them() {
    let golden = Safetensors::open(&path("blocks.safetensors")).unwrap();
    for kind in [WeightType::Q4_0, WeightType::Q8_0, WeightType::Q4K, WeightType::Q5K, WeightType::Q6K] {
        let wanted = golden.read(&format!("{kind}.values")).unwrap().to_f32("").unwrap();
        let found = blocks::dequantize(kind, &golden.read(&format!("{kind}.blocks")).unwrap().bytes).unwrap();
        let largest = wanted.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        for (found, wanted) in found.iter().zip(&wanted) {
            assert!((found - wanted).abs() <= 1e-6 * largest, "{kind}: {found} instead of {wanted}");
        }
    }
}
