//! Embeddings and classes against transformers (`tools/make_embed_fixtures.py`).

use std::path::{Path, PathBuf};

use serde_json::Value;
use whit::embed::{Classifier, EmbedError, Embedder, Pooling, Settings};
use whit::load::image::Picture;
use whit::load::{self, ModelFiles};
use whit::nn::vars::{Precision, Storage};
use whit_kernels::linear::WeightType;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn files(name: &str) -> ModelFiles {
    load::open(fixtures().join(name).to_str().unwrap(), &load::Options::default()).unwrap()
}

fn storage() -> Storage {
    Storage::Packed(Precision::Fixed(WeightType::F32))
}

fn expected(name: &str) -> Value {
    let text = std::fs::read_to_string(fixtures().join(name).join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn assert_close(ours: &[f32], theirs: &Value, what: &str) {
    let theirs: Vec<f32> =
        theirs.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect();
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (a, b) in ours.iter().zip(&theirs) {
        assert!((a - b).abs() < 1e-4, "{what}: {a} instead of {b}");
    }
}

fn picture(name: &str) -> Picture {
    Picture::open(&fixtures().join("images").join(format!("{name}.png"))).unwrap()
}

/// A folder of sentence-transformers says how to pool, what follows, and how long texts may be.
#[test]
fn sentences_get_the_vectors_of_their_folder() {
    let (files, expected) = (files("embed/sentence"), expected("embed/sentence"));
    let texts: Vec<String> = expected.as_object().unwrap().keys().cloned().collect();
    let poolings = [
        (None, "mean"),
        (Some(Pooling::Class), "cls"),
        (Some(Pooling::Max), "max"),
        (Some(Pooling::Last), "last"),
    ];
    for (pooling, name) in poolings {
        let embedder = Embedder::new(&files, &storage(), Settings { pooling, normalise: None }).unwrap();
        let encoder = embedder.texts.unwrap();
        assert_eq!(encoder.prompts()[0].as_deref(), Some("the photo of "));
        let together = encoder.embed(&texts).unwrap();
        for (text, vector) in texts.iter().zip(&together) {
            assert_close(vector, &expected[text][name], &format!("{name} of {text:?}"));
            assert_eq!(&encoder.embed(std::slice::from_ref(text)).unwrap()[0], vector, "alone and together");
        }
    }
}

#[test]
fn images_and_texts_share_clips_space() {
    let (files, expected) = (files("embed/clip"), expected("embed/clip"));
    let embedder = Embedder::new(&files, &storage(), Settings::default()).unwrap();
    let images = embedder.images.unwrap();
    let labels: Vec<String> = expected["labels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|label| label.as_str().unwrap().to_owned())
        .collect();
    let classifier = Classifier::described(&files, &storage(), labels.clone(), "a photo of a {}").unwrap();
    for name in ["rgb", "rgba"] {
        assert_close(&images.embed(&[picture(name)])[0], &expected["images"][name], name);
        let classes = classifier.classify(&[picture(name)], 9, &mut |_| None).remove(0);
        assert!(classes.is_sorted_by(|a, b| a.probability >= b.probability));
        let place = |label: &String| classes.iter().find(|guess| guess.label == *label).unwrap().probability;
        let ours: Vec<f32> = labels.iter().map(place).collect();
        assert_close(&ours, &expected["probabilities"][name], name);
    }
}

#[test]
fn an_image_is_sorted_into_the_models_own_classes() {
    let (files, expected) = (files("embed/classifier"), expected("embed/classifier"));
    let classifier = Classifier::new(&files, &storage()).unwrap();
    assert_eq!(classifier.labels(), ["stone", "water", "wood"]);
    let classes = classifier.classify(&[picture("rgb"), picture("rgba")], 3, &mut |_| None);
    let place = |label: &str| classes[0].iter().find(|guess| guess.label == label).unwrap().probability;
    assert_close(&["stone", "water", "wood"].map(place), &expected["rgb"], "rgb");
    assert_eq!(classes[1].len(), 3);
}

#[test]
fn models_of_another_kind_are_refused() {
    let new =
        |name: &str, pooling| Embedder::new(&files(name), &storage(), Settings { pooling, normalise: None });
    let decoder = new("llama-text", None).unwrap_err();
    assert!(matches!(decoder, EmbedError::Kind { .. }), "{decoder}");
    let bare = new("bert", None).unwrap_err();
    assert!(matches!(bare, EmbedError::NoTokenizer { .. }), "{bare}");
    let own = new("embed/sentence", Some(Pooling::Own)).unwrap_err();
    assert!(matches!(own, EmbedError::Pooling { .. }), "{own}");
    let texts = Classifier::new(&files("embed/sentence"), &storage()).unwrap_err();
    assert!(matches!(texts, EmbedError::Kind { .. }), "{texts}");
    let clip = Classifier::new(&files("embed/clip"), &storage()).unwrap_err();
    assert!(matches!(clip, EmbedError::NoClasses { .. }), "{clip}");
    let described = Classifier::described(&files("embed/classifier"), &storage(), vec!["a".into()], "{}");
    assert!(matches!(described.unwrap_err(), EmbedError::Kind { .. }));
}
