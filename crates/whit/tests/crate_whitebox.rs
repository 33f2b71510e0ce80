//! White-box transformers end to end: token reducers work on them as on any vision transformer, and what a recipe
//! trains is written so that it is read back as the same model.

use burn::tensor::{Device, Tensor, TensorData};
use whit::load::{self, Checkpoint};
use whit::methods::{METHODS, ModelFacts, ModelKind, Plan, Selection};
use whit::models::{self, crate_mae};
use whit::nn::attention::Batched;
use whit::nn::decoder::Tokens;
use whit::nn::vars::{Precision, Random, Storage, Vars};
use whit::nn::vision::Vision;
use whit::nn::white::Initial;
use whit::train::export::{save_autoencoder, save_decoder, save_vision};
use whit::train::vision::classify;
use whit::train::{mae, recipes};
use whit_kernels::op;

fn vision() -> Vision {
    let json = serde_json::json!({
        "architectures": ["CrateForImageClassification"], "model_type": "crate", "hidden_size": 32,
        "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 20, "patch_size": 4, "num_labels": 3,
    });
    let config = models::vision::architecture(&json).unwrap().config(&json).unwrap();
    let storage = Storage::Packed(Precision::Native);
    Vision::new(config, &Vars::new(&Initial { random: Random { seed: 5 } }, &storage)).unwrap()
}

fn images(seeds: &[u32], side: usize) -> Tensor<4> {
    let value = |seed: u32, at: u32| ((at * at % 97 + seed * at) as f32 * 0.37).sin();
    let count = (3 * side * side) as u32;
    let values: Vec<f32> = seeds.iter().flat_map(|&seed| (0..count).map(move |at| value(seed, at))).collect();
    Tensor::from_data(TensorData::new(values, [seeds.len(), 3, side, side]), &Device::flex())
}

fn scores(model: &Vision, methods: &[String], seeds: &[u32]) -> Vec<f32> {
    let facts = ModelFacts { kind: ModelKind::Vision, ..ModelFacts::example() };
    let plan = Plan::new(&Selection::parse(methods).unwrap(), &facts).unwrap();
    op::host(classify(model, &plan, images(seeds, 20)).unwrap()).into_vec()
}

#[test]
fn every_token_reducer_works_on_a_white_box() {
    let model = vision();
    let baseline = scores(&model, &[], &[1, 2]);
    let mut found = 0;
    for spec in METHODS.iter().filter(|spec| spec.models.contains(&ModelKind::Vision) && !spec.is_offline()) {
        for (knob, off) in spec.knobs.iter().filter_map(|knob| Some((knob, knob.off.clone()?))) {
            let off = format!("{}:{}={off}", spec.id, knob.name);
            assert_eq!(scores(&model, std::slice::from_ref(&off), &[1, 2]), baseline, "{off}");
        }
        let method = [spec.id.to_owned()];
        let together = scores(&model, &method, &[1, 2]);
        let alone = [1, 2].map(|seed| scores(&model, &method, &[seed])).concat();
        assert_eq!(together, alone, "{}", spec.id);
        assert_ne!(together, baseline, "{} does nothing", spec.id);
        found += 1;
    }
    assert!(found >= 5, "reducers are missing");
}

/// How far two lists of values are apart, as a share of the largest.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

fn packed() -> Storage {
    Storage::Packed(Precision::Native)
}

/// The model in a folder that was just written.
fn open(folder: &std::path::Path) -> (serde_json::Value, std::sync::Arc<dyn Checkpoint>) {
    let files = load::open(folder.to_str().unwrap(), &load::Options::default()).unwrap();
    (files.config, files.weights)
}

/// Weights are written in bf16, so a little is lost.
const ROUNDING: f32 = 0.05;

#[test]
fn a_classifier_is_read_back_as_it_was_trained() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = (recipes::find(recipes::CLASSIFIERS, "toy-crate").unwrap().settings)();
    let classes = ["a", "b", "c"].map(str::to_owned);
    let model = recipe.model(&classes, &Device::flex()).unwrap();
    save_vision(folder.path(), &model, &recipe.config_json(&classes)).unwrap();
    let (config, weights) = open(folder.path());
    let read = models::vision::vision(&config, weights.as_ref(), &packed(), &|_| {}).unwrap();
    let logits = |model: &Vision| {
        let hidden = model.forward(images(&[1, 2], 64), &mut Batched::whole(2, None));
        op::host(model.logits(&hidden, None).unwrap().logits).into_vec()
    };
    let (ours, theirs) = (logits(&model), logits(&read));
    assert!(apart(&ours, &theirs) < ROUNDING, "{ours:?} {theirs:?}");
}

#[test]
fn an_autoencoder_is_read_back_as_it_was_trained() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = (recipes::find(recipes::AUTOENCODERS, "toy-crate-mae").unwrap().settings)();
    let model = mae::model(&recipe, &Device::flex()).unwrap();
    save_autoencoder(folder.path(), &model, &recipe.config).unwrap();
    let (config, weights) = open(folder.path());
    let read = crate_mae::autoencoder(&config, weights.as_ref(), &packed(), &|_| {}).unwrap();
    let predicted = |model: &whit::nn::white_mae::WhiteMae| {
        let hidden = Tensor::<2>::from_data(TensorData::new(vec![1.0f32; 64], [1, 64]), &Device::flex());
        let attend = &mut Batched::whole(1, None);
        op::host(model.decode(model.encode(images(&[1], 64), hidden, attend), attend)).into_vec()
    };
    assert!(apart(&predicted(&model), &predicted(&read)) < ROUNDING);
    let encoder = models::vision::vision(&config, weights.as_ref(), &packed(), &|_| {}).unwrap();
    let states =
        |model: &Vision| op::host(model.forward(images(&[1], 64), &mut Batched::whole(1, None))).into_vec();
    assert_eq!(states(&encoder), states(read.encoder()), "the encoder alone is the same");
}

#[test]
fn a_language_model_is_read_back_as_it_was_trained() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = (recipes::find(recipes::RECIPES, "crate-lm").unwrap().settings)();
    let model = recipe.model(&Device::flex()).unwrap();
    // A tokenizer of two words is enough for the folder to be read.
    let tokenizer =
        br#"{"version":"1.0","model":{"type":"WordLevel","vocab":{"a":0,"b":1},"unk_token":"a"}}"#;
    save_decoder(folder.path(), &model, &recipe.config_json(), tokenizer).unwrap();
    let (config, weights) = open(folder.path());
    let read = models::decoder(&config, weights.as_ref(), &packed(), &|_| {}).unwrap();
    let logits = |model: &whit::nn::decoder::Decoder| {
        let (ids, positions) = ([5, 900, 31, 7], [0, 1, 2, 3]);
        let tokens = Tokens { ids: &ids, positions: &positions, lengths: &[4; 4] };
        op::host(model.logits(model.forward(tokens, &mut Batched::causal(1)))).into_vec()
    };
    assert!(apart(&logits(&model), &logits(&read)) < ROUNDING);
}
