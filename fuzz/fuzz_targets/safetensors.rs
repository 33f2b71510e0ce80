//! No bytes may make the safetensors reader panic, or read outside the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whit::load::safetensors::Safetensors;
use whit::load::{Checkpoint, Source};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = Safetensors::from_source(Source::memory("input", bytes.to_vec())) else { return };
    for name in file.names() {
        let tensor = file.read(&name).expect("a checked tensor can be read");
        assert_eq!(tensor.info().bytes(), Some(tensor.bytes.len()));
        let _ = tensor.to_f32(&name);
    }
});
