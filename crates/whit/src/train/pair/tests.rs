use std::path::Path;

use super::*;
use crate::embed::{Classifier, Embedder};
use crate::load::image::Picture;
use crate::load::{ModelFiles, Options, open};
use crate::nn::vars::Precision;
use crate::train::recipes;

fn tiny() -> PairRecipe {
    let mut recipe = (recipes::find(recipes::PAIRS, "toy-clip").unwrap().settings)();
    recipe.config["projection_dim"] = 8.into();
    for part in ["vision_config", "text_config"] {
        let sizes = [("hidden_size", 16), ("intermediate_size", 32), ("num_hidden_layers", 1)];
        sizes.iter().for_each(|(name, size)| recipe.config[part][*name] = (*size).into());
        recipe.config[part]["num_attention_heads"] = 2.into();
    }
    recipe.config["vision_config"]["image_size"] = 16.into();
    PairRecipe { held_out: 8, batch: 4, ..recipe }
}

fn made(recipe: &PairRecipe, folder: &Path) -> ([Scenes; 2], Tokenizer) {
    let scenes = recipe.scenes().unwrap();
    let tokenizer = recipe.tokenizer(&scenes[0], &folder.join("tokenizer.json")).unwrap();
    (scenes, tokenizer)
}

#[test]
fn the_loss_is_that_of_both_directions_by_hand() {
    let (recipe, folder) = (tiny(), tempfile::tempdir().unwrap());
    let (scenes, tokenizer) = made(&recipe, folder.path());
    let (device, contrast) = (Device::flex(), Contrast::new(&recipe, &scenes, &tokenizer));
    let pair = recipe.model(&tokenizer, &device).unwrap();
    let numbers = [0, 1, 2, 3];
    let Matched { pixels, captions } = contrast.read(&scenes[1], &numbers, &device).unwrap();
    let logits = whit_kernels::op::host(pair.logits(pair.images(pixels), pair.texts(&captions, &device)));
    let at = |image: usize, text: usize| f64::from(logits.data()[4 * image + text]);
    let direction = |at: &dyn Fn(usize, usize) -> f64| -> f64 {
        let row = |own: usize| (0..4).map(|other| at(own, other).exp()).sum::<f64>().ln() - at(own, own);
        (0..4).map(row).sum::<f64>() / 4.0
    };
    let expected = (direction(&at) + direction(&|a, b| at(b, a))) / 2.0;
    let matched = contrast.read(&scenes[1], &numbers, &device).unwrap();
    let loss: f32 = contrast.loss_of(&pair, matched, &device).into_scalar();
    assert!((f64::from(loss) - expected).abs() < 1e-5, "{loss} {expected}");
}

#[test]
fn every_weight_learns() {
    let (recipe, folder) = (tiny(), tempfile::tempdir().unwrap());
    let (scenes, tokenizer) = made(&recipe, folder.path());
    let contrast = Contrast::new(&recipe, &scenes, &tokenizer);
    let pair = recipe.model(&tokenizer, &Device::flex().autodiff()).unwrap();
    let position = Position { step: 0, part: 0, parts: 1 };
    let mut gradients = contrast.loss(&pair, position).unwrap().backward();
    let mut sums = super::super::parameters::Named::new();
    super::super::parameters::add_gradients(&pair, &mut gradients, &mut sums);
    let mut names = 0;
    super::super::parameters::read(&pair, |name, _, _| {
        names += 1;
        let moved = sums.get(name).is_some_and(|values| values.iter().any(|value| *value != 0.0));
        // A bias of all keys moves no softmax.
        assert!(moved || name.ends_with("key.bias"), "{name} does not learn");
    });
    assert!(names > 30, "{names}");
}

#[test]
fn a_saved_pair_classifies_and_places_as_the_one_that_was_trained() {
    let (recipe, folder) = (tiny(), tempfile::tempdir().unwrap());
    let (scenes, tokenizer) = made(&recipe, folder.path());
    let (device, contrast) = (Device::flex(), Contrast::new(&recipe, &scenes, &tokenizer));
    let pair = recipe.model(&tokenizer, &device).unwrap();
    let json = std::fs::read(folder.path().join("tokenizer.json")).unwrap();
    let model = folder.path().join("model");
    save_pair(&model, &pair, &recipe.config_json(&tokenizer), &json).unwrap();
    let files: ModelFiles = open(model.to_str().unwrap(), &Options::default()).unwrap();
    let storage = Storage::Packed(Precision::Native);
    let embedder = Embedder::new(&files, &storage, Default::default()).unwrap();
    let Matched { captions, .. } = contrast.read(&scenes[1], &[0, 1], &device).unwrap();
    let ours = whit_kernels::op::host(pair.texts(&captions, &device));
    let texts: Vec<String> = (0..2).map(|number| scenes[1].scene(number).caption()).collect();
    let theirs = embedder.texts.unwrap().embed(&texts).unwrap().concat();
    for (a, b) in ours.data().iter().zip(theirs) {
        assert!((a - b).abs() < 0.02, "{a} {b}"); // weights were rounded to bf16
    }
    let labels = vec!["cube".to_owned(), "circle".to_owned()];
    let classifier = Classifier::described(&files, &storage, labels, measure::TEMPLATE).unwrap();
    let picture = Picture { width: 16, height: 16, rgb: vec![99; 768] };
    let guesses = classifier.classify(&[picture], 2, &mut |_| None);
    let sum: f32 = guesses[0].iter().map(|guess| guess.probability).sum();
    assert!((sum - 1.0).abs() < 1e-5);
}

#[test]
fn long_captions_keep_their_end() {
    let (recipe, folder) = (tiny(), tempfile::tempdir().unwrap());
    let (_, tokenizer) = made(&recipe, folder.path());
    let texts = ["a red cube".to_owned(), "a red cube and a red cube and a red cube".to_owned()];
    let captions = Captions::new(&texts, &tokenizer, 8).unwrap();
    let end = tokenizer.token_id(vocabulary::TEXT_END).unwrap();
    assert_eq!((captions.length, captions.count()), (8, 2));
    assert_eq!(captions.ids[4..8], [end; 4]);
    assert_eq!(captions.ids[15], end);
}
