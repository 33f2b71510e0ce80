//! One side of `bench/peers/vision_pairs.py`: vision transformers of real sizes with random weights. Reads a
//! line `MODEL TYPE` (`deit-small` or `vit-base`; `f32`, `bf16` or `int8`), classifies one batch of images, and
//! writes the seconds that it took. A model is built, and run once, when it is first asked for. With
//! arguments it does the same for each of them, five times: `vision_speed deit-small:int8`. On a machine that
//! others use too, images per second of processor time say more, with one thread (`WHIT_THREADS=1`).
//!
//! cargo run --release --workspace --example vision_speed -- deit-small:f32 vit-base:bf16

use std::collections::BTreeMap;
use std::io::{BufRead, Write, stdin, stdout};
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use serde_json::json;
use whit::models::vision::architecture;
use whit::nn::attention::Batched;
use whit::nn::vars::{Precision, Random, Storage, Vars};
use whit::nn::vision::Vision;
use whit_kernels::linear::WeightType;
use whit_kernels::{op, parallel};

const BATCH: usize = 8;

type Failure = Box<dyn std::error::Error>;

fn build(model: &str, kind: &str) -> Result<Vision, Failure> {
    let (width, heads) = match model {
        "deit-small" => (384, 6),
        "vit-base" => (768, 12),
        other => return Err(format!("{other} is neither deit-small nor vit-base").into()),
    };
    let labels: BTreeMap<String, String> =
        (0..1000).map(|class| (class.to_string(), String::new())).collect();
    let config = json!({
        "model_type": "vit", "architectures": ["ViTForImageClassification"], "id2label": labels,
        "hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width,
    });
    let known = architecture(&config).ok_or("vit is not known")?;
    let storage = Storage::Packed(Precision::Fixed(kind.parse::<WeightType>()?));
    Ok(Vision::new(known.config(&config)?, &Vars::new(&Random { seed: 0 }, &storage))?)
}

/// The seconds of one batch, from pixels to scores.
fn seconds(model: &Vision) -> f64 {
    let pixels = Tensor::<4>::random([BATCH, 3, 224, 224], Distribution::Normal(0.0, 1.0), &Device::flex());
    let start = Instant::now();
    let hidden = model.forward(pixels, &mut Batched::whole(BATCH, None));
    let scores = model.logits(&hidden, None).map(|logits| op::host(logits.logits));
    assert!(scores.is_some_and(|scores| scores.data().iter().all(|score| score.is_finite())));
    start.elapsed().as_secs_f64()
}

/// The processor time of this process, where the system tells it.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: f64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    ticks / 100.0
}

fn main() -> Result<(), Failure> {
    if std::env::var_os("WHIT_THREADS").is_none() {
        parallel::set_threads(2);
    }
    let mut models: BTreeMap<String, Vision> = BTreeMap::new();
    let mut once = |model: &str, kind: &str| -> Result<f64, Failure> {
        let name = format!("{model} {kind}");
        if !models.contains_key(&name) {
            let built = build(model, kind)?;
            seconds(&built);
            models.insert(name.clone(), built);
        }
        Ok(models.get(&name).map_or(f64::NAN, seconds))
    };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for argument in &arguments {
        let (model, kind) = argument.split_once(':').ok_or("an argument is MODEL:TYPE")?;
        once(model, kind)?;
        let before = processor_seconds();
        let mut times = (0..5).map(|_| once(model, kind)).collect::<Result<Vec<_>, _>>()?;
        let busy = processor_seconds() - before;
        times.sort_by(f64::total_cmp);
        let per = |seconds: f64| BATCH as f64 / seconds;
        println!("{argument}: {:.1} images/s, {:.1} a processor second", per(times[2]), per(busy / 5.0));
    }
    if !arguments.is_empty() {
        return Ok(());
    }
    for line in stdin().lock().lines() {
        let line = line?;
        let (model, kind) = line.split_once(' ').ok_or("a line is MODEL TYPE")?;
        println!("{}", once(model, kind)?);
        stdout().flush()?;
    }
    Ok(())
}
