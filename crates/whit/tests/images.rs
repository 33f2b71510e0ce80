//! Images against Pillow and transformers' image processors (`tools/make_image_fixtures.py`).

use std::path::{Path, PathBuf};

use serde_json::Value;
use whit::load::Checkpoint;
use whit::load::image::{Filter, Picture, Preprocessor};
use whit::load::safetensors::Safetensors;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/images")
}

fn expected() -> Safetensors {
    Safetensors::open(&folder().join("expected.safetensors")).unwrap()
}

fn picture(name: &str) -> Picture {
    Picture::open(&folder().join(name)).unwrap()
}

fn assert_same(name: &str, ours: &Picture) {
    let theirs = expected().read(name).unwrap();
    assert_eq!([ours.height, ours.width, 3], theirs.shape[..], "{name}");
    let wrong = ours.rgb.iter().zip(&theirs.bytes).filter(|(a, b)| a != b).count();
    assert_eq!(wrong, 0, "{name}: so many values differ");
}

#[test]
fn images_of_every_kind_are_decoded_as_pillow_does() {
    for name in ["rgb", "rgba", "grey", "palette", "turned"] {
        assert_same(&format!("decoded.{name}"), &picture(&format!("{name}.png")));
    }
    assert_same("decoded.rgb", &picture("lossless.webp"));
}

/// Every filter, up, down and in one direction only, to the bit.
#[test]
fn resized_pixels_equal_pillows() {
    let filters = [
        ("nearest", Filter::Nearest),
        ("lanczos", Filter::Lanczos),
        ("bilinear", Filter::Bilinear),
        ("bicubic", Filter::Bicubic),
        ("box", Filter::Box),
        ("hamming", Filter::Hamming),
    ];
    let picture = picture("rgb.png");
    for (name, filter) in filters {
        for [height, width] in [[7, 11], [40, 23], [19, 64], [31, 37]] {
            assert_same(
                &format!("resized.{name}.{height}.{width}"),
                &picture.resize([height, width], filter),
            );
        }
    }
}

/// timm's own transform: the share of the image that is kept, torchvision's middle, squashed images.
#[test]
fn timms_folders_say_how_images_are_prepared() {
    let fixtures = folder().parent().unwrap().to_owned();
    for name in ["timm", "timm-distilled", "timm-squash"] {
        let processor = Preprocessor::open(&fixtures.join(name)).unwrap().unwrap();
        let theirs = Safetensors::open(&fixtures.join(name).join("pixels.safetensors")).unwrap();
        for (source, path) in
            [("rgb", "images/rgb.png"), ("palette", "images/palette.png"), ("wide", "timm/wide.png")]
        {
            let ours = processor.apply(&Picture::open(&fixtures.join(path)).unwrap());
            assert_eq!([ours.height, ours.width], [32, 32], "{name} {source}");
            let theirs = theirs.read(source).unwrap().to_f32(source).unwrap();
            let worst = ours.values.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 1e-6, "{name} {source} is off by {worst}");
        }
    }
}

#[test]
fn processors_hand_on_the_same_values() {
    let text = std::fs::read_to_string(folder().join("processors.json")).unwrap();
    let settings: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    let expected = expected();
    let mut compared = 0;
    for (name, settings) in &settings {
        let processor = Preprocessor::from_json(settings, Path::new(name)).unwrap();
        for source in ["rgb", "rgba"] {
            let key = format!("processed.{name}.{source}");
            let Ok(theirs) = expected.read(&key) else { continue };
            let ours = processor.apply(&picture(&format!("{source}.png")));
            assert_eq!([3, ours.height, ours.width], theirs.shape[..], "{key}");
            let theirs = theirs.to_f32(&key).unwrap();
            let worst = ours.values.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 1e-6, "{key} is off by {worst}");
            compared += 1;
        }
    }
    assert!(compared >= 10, "{compared}");
}
