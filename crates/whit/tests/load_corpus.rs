//! Replays the seeds of the fuzz targets, and random mutations of them: no input may make a reader panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use whit::load::safetensors::Safetensors;
use whit::load::{Checkpoint, GenerationConfig, Source, gguf};
use whit::models;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Changes, inserts, removes, repeats or cuts off a few bytes.
fn mutate(bytes: &mut Vec<u8>, random: &mut ChaCha8Rng) {
    const EXTREMES: [u8; 6] = [0, 1, 0x7f, 0x80, 0xfe, 0xff];
    for _ in 0..random.random_range(1..6) {
        if bytes.is_empty() {
            return;
        }
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..7) {
            0 => bytes[at] = random.random(),
            1 => bytes[at] = EXTREMES[random.random_range(0..EXTREMES.len())],
            2 => bytes[at] ^= 1 << random.random_range(0..8),
            3 => bytes.insert(at, random.random()),
            4 => drop(bytes.remove(at)),
            5 => {
                let end = (at + random.random_range(1..32)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = random.random_range(0..=bytes.len());
                bytes.splice(to..to, copy);
            }
            _ => bytes.truncate(at),
        }
    }
}

fn survive(target: &str, read: impl Fn(Vec<u8>)) {
    let seconds = std::env::var("WHIT_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(1.0);
    let seeds = corpus(target);
    assert!(!seeds.is_empty(), "no seeds for {target}");
    for (_, bytes) in &seeds {
        read(bytes.clone());
    }
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let (start, mut rounds) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs_f64(seconds) {
        let (path, seed) = &seeds[random.random_range(0..seeds.len())];
        let mut bytes = seed.clone();
        mutate(&mut bytes, &mut random);
        if catch_unwind(AssertUnwindSafe(|| read(bytes.clone()))).is_err() {
            let found = std::env::temp_dir().join(format!("whit-fuzz-{target}"));
            std::fs::write(&found, &bytes).unwrap();
            panic!("{target}: a mutation of {} failed; it lies in {}", path.display(), found.display());
        }
        rounds += 1;
    }
    println!("{target}: {} seeds, {rounds} mutations", seeds.len());
}

#[test]
fn safetensors_readers_survive() {
    survive("safetensors", |bytes| {
        let Ok(file) = Safetensors::from_source(Source::memory("input", bytes)) else { return };
        for name in file.names() {
            let tensor = file.read(&name).unwrap();
            assert_eq!(tensor.info().bytes(), Some(tensor.bytes.len()));
            let _ = tensor.to_f32(&name);
        }
    });
}

#[test]
fn gguf_readers_survive() {
    survive("gguf", |bytes| {
        let Ok(files) = gguf::from_source(Source::memory("input", bytes)) else { return };
        for name in files.weights.names() {
            let tensor = files.weights.read(&name).unwrap();
            assert_eq!(tensor.info().bytes(), Some(tensor.bytes.len()));
            let _ = tensor.to_f32(&name);
        }
        if let Some(tokenizer) = files.tokenizer {
            let _ = tokenizer.encode("Hello, wörld 123", true);
        }
    });
}

#[test]
fn configuration_readers_survive() {
    survive("config", |bytes| {
        let Ok(config) = serde_json::from_slice(&bytes) else { return };
        let _ = GenerationConfig::from_json(&config, &config);
        if let Ok(architecture) = models::architecture(&config) {
            let _ = (architecture.config)(&config);
        }
    });
}

#[test]
fn gguf_fixtures_speak_as_llama_cpp_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let Ok(texts) = std::fs::read(path.join("texts.json")) else { continue };
        let files = gguf::open(&path.join("model.gguf")).unwrap();
        let tokenizer = files.tokenizer.unwrap();
        let texts: serde_json::Value = serde_json::from_slice(&texts).unwrap();
        for text in texts.as_array().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(text["ids"].clone()).unwrap();
            assert_eq!(
                tokenizer.encode(text["text"].as_str().unwrap(), true).unwrap(),
                ids,
                "{path:?} {text}"
            );
        }
        count += 1;
    }
    assert!(count >= 5, "{count} fixtures");
}
