//! No bytes may make the GGUF reader panic, or read outside the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whit::load::{Source, gguf};

fuzz_target!(|bytes: &[u8]| {
    let Ok(files) = gguf::from_source(Source::memory("input", bytes.to_vec())) else { return };
    for name in files.weights.names() {
        let tensor = files.weights.read(&name).expect("a checked tensor can be read");
        assert_eq!(tensor.info().bytes(), Some(tensor.bytes.len()));
        let _ = tensor.to_f32(&name);
    }
    if let Some(tokenizer) = files.tokenizer {
        let _ = tokenizer.encode("Hello, wörld 123", true);
    }
});
