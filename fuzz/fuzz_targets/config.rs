//! No configuration may make its readers panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use whit::load::GenerationConfig;
use whit::models;

fuzz_target!(|bytes: &[u8]| {
    let Ok(config) = serde_json::from_slice(bytes) else { return };
    let _ = GenerationConfig::from_json(&config, &config);
    if let Ok(architecture) = models::architecture(&config) {
        let _ = (architecture.config)(&config);
    }
});
