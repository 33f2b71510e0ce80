//! Stores a model as GGUF: `cargo run --release -p whit --example to_gguf -- MODEL OUT.gguf q8_0`.

use std::path::Path;
use std::process::ExitCode;

use whit::load::{self, Dtype, TensorInfo, gguf};

const TYPES: [(&str, Dtype); 8] = [
    ("f32", Dtype::F32),
    ("f16", Dtype::F16),
    ("bf16", Dtype::Bf16),
    ("q4_0", Dtype::Q4_0),
    ("q8_0", Dtype::Q8_0),
    ("q4_k", Dtype::Q4K),
    ("q5_k", Dtype::Q5K),
    ("q6_k", Dtype::Q6K),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("to_gguf: {reason}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let [model, out, kind] = arguments else { return Err("usage: to_gguf MODEL OUT.gguf TYPE".into()) };
    let known = TYPES.iter().find(|(name, _)| name == kind);
    let (_, dtype) = known.ok_or_else(|| format!("{kind:?} is no type that can be written"))?;
    let files = load::open(model, &load::Options::default()).map_err(|e| e.to_string())?;
    let choose = |_: &str, _: &TensorInfo| *dtype;
    gguf::export(&files, Path::new(out), choose, |_, _| {}).map_err(|e| e.to_string())
}
