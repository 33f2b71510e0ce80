//! Parity with transformers on every checkpoint under `tests/fixtures` (made by `tools/make_fixtures.py`): each output
//! within 1e-5 of the peer's, relative to its largest value, in both forms that weights take.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use whit::load::safetensors::{self, Safetensors};
use whit::load::{self, Checkpoint, Dtype, RawTensor};
use whit::models::{self, Network};
use whit::nn::vars::{Precision, Storage};
use whit_kernels::linear::WeightType;

const TOLERANCE: f32 = 1e-5;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// The folders that hold a model.
fn models() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.join("config.json").exists()).collect();
    found.sort();
    assert!(found.len() > 30, "the fixtures are missing");
    found
}

fn build(folder: &Path, storage: &Storage) -> Result<Network, String> {
    let source = folder.to_str().unwrap();
    let files = load::open(source, &load::Options::default()).map_err(|error| error.to_string())?;
    models::network(&files.config, files.weights.as_ref(), storage, &|_| {})
        .map_err(|error| error.to_string())
}

fn run(model: &Network, input: &Path) -> Result<BTreeMap<String, RawTensor>, String> {
    let file = Safetensors::open(input).map_err(|error| error.to_string())?;
    Ok(model.forward(&file).map_err(|error| error.to_string())?.into_iter().collect())
}

/// The largest difference relative to the largest value, or why the two cannot be compared.
fn distance(ours: Option<&RawTensor>, theirs: &RawTensor) -> Result<f32, String> {
    let ours = ours.ok_or("not among the outputs")?;
    if ours.shape != theirs.shape {
        return Err(format!("shape {:?} instead of {:?}", ours.shape, theirs.shape));
    }
    let [ours, theirs] = [ours, theirs].map(|tensor| tensor.to_f32("").unwrap());
    let largest = theirs.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let differences = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs());
    // `max` would pass over a NaN.
    Ok(differences.fold(0.0f32, |worst, next| if next <= worst { worst } else { next }) / largest)
}

/// What differs from the expected outputs of one folder.
fn failures(folder: &Path, storage: &Storage) -> Vec<String> {
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let ours = match build(folder, storage).and_then(|model| run(&model, &folder.join("input.safetensors"))) {
        Ok(outputs) => outputs,
        Err(error) => return vec![format!("{name}: {error}")],
    };
    let expected = Safetensors::open(&folder.join("expected.safetensors")).unwrap();
    let compare = |output: String| match distance(ours.get(&output), &expected.read(&output).unwrap()) {
        Ok(distance) if distance <= TOLERANCE => None,
        Ok(distance) => Some(format!("{name}: {output} is off by {distance:.1e} of the largest value")),
        Err(reason) => Some(format!("{name}: {output}: {reason}")),
    };
    expected.names().into_iter().filter_map(compare).collect()
}

fn check(storage: &Storage) {
    let found: Vec<_> = models().iter().flat_map(|folder| failures(folder, storage)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

fn packed() -> Storage {
    Storage::Packed(Precision::Fixed(WeightType::F32))
}

#[test]
fn packed_models_equal_transformers() {
    check(&packed());
}

#[test]
fn trainable_models_equal_transformers() {
    check(&Storage::Dense(Device::flex()));
}

/// A copy of a fixture that a test may spoil.
fn copy(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures().join(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

fn spoil_config(folder: &Path, from: &str, to: &str) {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from} is not in config.json");
    std::fs::write(&path, text.replace(from, to)).unwrap();
}

/// Rewrites the checkpoint, leaving out or changing tensors.
fn spoil_weights(folder: &Path, change: impl Fn(&str, RawTensor) -> Option<RawTensor>) {
    let path = folder.join("model.safetensors");
    let file = Safetensors::open(&path).unwrap();
    let kept: Vec<_> = file
        .names()
        .into_iter()
        .filter_map(|name| Some((name.clone(), change(&name, file.read(&name).unwrap())?)))
        .collect();
    drop(file);
    let kept: Vec<_> = kept.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    safetensors::save(&path, &kept, &BTreeMap::new()).unwrap();
}

#[test]
fn an_unknown_architecture_is_named() {
    let folder = copy("llama");
    spoil_config(folder.path(), "\"model_type\": \"llama\"", "\"model_type\": \"perceptron\"");
    let error = build(folder.path(), &packed()).unwrap_err();
    assert!(error.contains("perceptron") && error.contains("qwen3"), "{error}");
}

#[test]
fn a_missing_tensor_is_named() {
    for (fixture, lost) in [
        ("llama", "model.layers.1.mlp.up_proj.weight"),
        ("gpt2", "transformer.h.2.attn.c_attn.bias"),
        ("qwen3", "model.layers.0.self_attn.q_norm.weight"),
        ("bert", "encoder.layer.1.output.LayerNorm.bias"),
        ("xlm-roberta-tokens", "roberta.embeddings.position_embeddings.weight"),
        ("blockffn", "model.layers.1.mlp.router_norm.weight"),
        ("blockffn", "model.layers.2.mlp.down_proj"),
        ("crate", "transformer.layers.1.1.fn.weight"),
        ("crate-gpt", "transformer.h.2.ista.weight"),
        ("crate-mae", "decoder_blocks.1.layers.0.0.fn.weight"),
    ] {
        let folder = copy(fixture);
        spoil_weights(folder.path(), |name, tensor| (name != lost).then_some(tensor));
        let error = build(folder.path(), &packed()).unwrap_err();
        assert!(error.contains(lost), "{error}");
    }
}

#[test]
fn a_misshapen_tensor_is_named_with_both_shapes() {
    let folder = copy("llama");
    let wrong = "model.layers.0.self_attn.k_proj.weight";
    spoil_weights(folder.path(), |name, tensor| {
        Some(if name == wrong { RawTensor { shape: vec![12, 96], ..tensor } } else { tensor })
    });
    let error = build(folder.path(), &packed()).unwrap_err();
    assert!(error.contains(wrong) && error.contains("[12, 96]") && error.contains("[24, 48]"), "{error}");

    let folder = copy("blockffn");
    spoil_config(folder.path(), "\"expert_size\": 6", "\"expert_size\": 7");
    let error = build(folder.path(), &packed()).unwrap_err();
    assert!(error.contains("layers.0.mlp.up_proj") && error.contains("[9, 6, 40]"), "{error}");
}

/// The error for these inputs to the `llama` fixture (vocabulary 96) or another.
fn refusal(fixture: &str, inputs: &[(&str, RawTensor)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("input.safetensors");
    let inputs: Vec<_> = inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
    safetensors::save(&path, &inputs, &BTreeMap::new()).unwrap();
    run(&build(&fixtures().join(fixture), &packed()).unwrap(), &path).unwrap_err()
}

fn whole(shape: &[usize], values: &[i64]) -> RawTensor {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    RawTensor { dtype: Dtype::I64, shape: shape.to_vec(), bytes }
}

#[test]
fn wrong_inputs_are_named() {
    let ids = || ("input_ids", whole(&[1, 3], &[5, 6, 7]));
    type Case<'a> = (&'a str, &'a [(&'a str, RawTensor)], &'a str);
    let cases: [Case<'_>; 9] = [
        ("llama", &[ids(), ("pixel_values", whole(&[1], &[0]))], "unknown input `pixel_values`"),
        ("llama", &[("attention_mask", whole(&[1, 3], &[1, 1, 1]))], "`input_ids` is missing"),
        ("llama", &[("input_ids", whole(&[3], &[5, 6, 7]))], "`input_ids` has shape [3]"),
        ("llama", &[("input_ids", whole(&[1, 0], &[]))], "`input_ids` has shape [1, 0]"),
        ("llama", &[("input_ids", whole(&[1, 2], &[5, 96]))], "`input_ids` is 96 at row 0, column 1"),
        ("llama", &[("input_ids", whole(&[1, 2], &[-1, 5]))], "`input_ids` is -1"),
        ("llama", &[("input_ids", RawTensor::from_f32(vec![1, 1], &[1.0]))], "`input_ids` holds F32"),
        ("llama", &[ids(), ("attention_mask", whole(&[1, 2], &[1, 1]))], "`attention_mask` has shape [1, 2]"),
        ("gpt2", &[("input_ids", whole(&[1, 41], &[5; 41]))], "at most 40 tokens"),
    ];
    for (fixture, inputs, wanted) in cases {
        let error = refusal(fixture, inputs);
        assert!(error.contains(wanted), "{error}");
    }
    let error = refusal("gpt2", &[ids(), ("position_ids", whole(&[1, 3], &[0, 1, 40]))]);
    assert!(error.contains("`position_ids` is 40"), "{error}");
}
