//! How much faster a white-box transformer is than a plain one of the same width and depth: CRATE-B and ViT-B with
//! random weights, on images of 224 pixels, taking turns. Beside the times stand the multiplications.
//!
//! cargo run --release --workspace --example crate_speed -- [TYPE] [BATCH] [ROUNDS]

use burn::tensor::{Device, Distribution, Tensor};
use serde_json::{Value, json};
use whit::measure::macs::VisionCost;
use whit::measure::pairs::{Spread, interleave, ratio};
use whit::models::vision::architecture;
use whit::nn::attention::Batched;
use whit::nn::vars::{Precision, Random, Storage, Vars};
use whit::nn::vision::Vision;
use whit::nn::white::Initial;
use whit_kernels::linear::WeightType;
use whit_kernels::{op, parallel};

type Failure = Box<dyn std::error::Error>;

fn build(config: &Value, kind: WeightType) -> Result<Vision, Failure> {
    let known = architecture(config).ok_or("the architecture is not known")?;
    let storage = Storage::Packed(Precision::Fixed(kind));
    let source = Initial { random: Random { seed: 0 } };
    Ok(Vision::new(known.config(config)?, &Vars::new(&source, &storage))?)
}

/// The seconds of one batch, from pixels to scores.
fn seconds(model: &Vision, batch: usize) -> Result<f64, Failure> {
    let pixels = Tensor::<4>::random([batch, 3, 224, 224], Distribution::Normal(0.0, 1.0), &Device::flex());
    let start = std::time::Instant::now();
    let hidden = model.forward(pixels, &mut Batched::whole(batch, None));
    let scores = op::host(model.logits(&hidden, None).ok_or("the model has no classes")?.logits);
    let seconds = start.elapsed().as_secs_f64();
    if scores.data().iter().all(|score| score.is_finite()) { Ok(seconds) } else { Err("no numbers".into()) }
}

fn main() -> Result<(), Failure> {
    if std::env::var_os("WHIT_THREADS").is_none() {
        parallel::set_threads(2);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let kind = arguments.first().map_or("f32", String::as_str).parse::<WeightType>()?;
    let number = |at: usize, usual: usize| arguments.get(at).map_or(Ok(usual), |text| text.parse());
    let (batch, rounds) = (number(1, 4)?, number(2, 9)?);
    let plain =
        json!({ "model_type": "vit", "architectures": ["ViTForImageClassification"], "num_labels": 1000 });
    let white = json!({ "model_type": "crate", "architectures": ["CrateForImageClassification"], "num_labels": 1000 });
    let models = [("ViT-B", build(&plain, kind)?), ("CRATE-B", build(&white, kind)?)];
    for (_, model) in &models {
        seconds(model, batch)?;
    }
    let times = interleave(2, rounds, |variant| seconds(&models[variant].1, batch))?;
    for ((name, model), times) in models.iter().zip(&times) {
        let Spread { median, spread } = Spread::of(times);
        let (macs, bytes) = (VisionCost::of(model.config()).dense() as f64 / 1e9, model.bytes() as f64 / 1e6);
        println!(
            "{name}: {:.2} images/s (spread {:.0} %), {macs:.3} G multiplications an image, {bytes:.1} MB",
            batch as f64 / median,
            100.0 * spread
        );
    }
    let found = ratio(&times[0], &times[1]);
    println!("CRATE-B is {:.2} times as fast (spread {:.0} %)", found.median, 100.0 * found.spread);
    Ok(())
}
