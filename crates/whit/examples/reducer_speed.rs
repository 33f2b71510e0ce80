//! Times methods that make the tokens of a vision transformer fewer beside the same model with all tokens, on random
//! weights and images. Arguments: SHAPE BATCH ROUNDS METHOD[:KNOBS] ...; shapes are deit-s, deit-b, vit-l and vit-h.

use std::error::Error;
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use serde_json::json;
use whit::measure::macs::VisionCost;
use whit::measure::pairs::{Spread, interleave, ratio};
use whit::methods::reducers::Images;
use whit::methods::{ModelFacts, ModelKind, Plan, Selection};
use whit::models::vision::architecture;
use whit::nn::attention::Batched;
use whit::nn::reduce::{Asks, Reduce, Reducing, Seen};
use whit::nn::vars::{Precision, Random, Storage, Vars};
use whit::nn::vision::Vision;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let shape = arguments.first().map_or("deit-s", String::as_str);
    let (batch, rounds) = (number(1, 8)?, number(2, 5)?);
    let mut methods: Vec<String> = arguments.iter().skip(3).cloned().collect();
    if methods.is_empty() {
        methods.push("tome:r=13".into());
    }
    let model = model(shape)?;
    let [height, width] = model.config().image;
    let pixels =
        Tensor::<4>::random([batch, 3, height, width], Distribution::Normal(0.0, 1.0), &Device::flex());
    let plans = methods.iter().map(|method| plan(&model, method)).collect::<Result<Vec<_>>>()?;
    compare(&model, &pixels, (&methods, &plans), rounds)
}

fn model(shape: &str) -> Result<Vision> {
    let (width, layers, heads, patch) = match shape {
        "deit-s" => (384, 12, 6, 16),
        "deit-b" => (768, 12, 12, 16),
        "vit-l" => (1024, 24, 16, 16),
        "vit-h" => (1280, 32, 16, 14),
        other => return Err(format!("there is no shape `{other}`: deit-s, deit-b, vit-l or vit-h").into()),
    };
    let labels: serde_json::Map<_, _> =
        (0..1000).map(|id: usize| (id.to_string(), json!(id.to_string()))).collect();
    let json = json!({
        "architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_size": width,
        "intermediate_size": 4 * width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "image_size": 224, "patch_size": patch, "id2label": labels,
    });
    let config = architecture(&json).ok_or("the model is no vision transformer")?.config(&json)?;
    let storage = Storage::Packed(Precision::Native);
    Ok(Vision::new(config, &Vars::new(&Random { seed: 1 }, &storage))?)
}

fn plan(model: &Vision, method: &str) -> Result<Plan> {
    let facts =
        ModelFacts { kind: ModelKind::Vision, layers: model.config().layers, ..ModelFacts::example() };
    Ok(Plan::new(&Selection::parse(&[method])?, &facts)?)
}

/// A reducer that knows how long it takes and how many tokens it leaves.
struct Timed {
    images: Images,
    seconds: f64,
    left: Vec<usize>,
}

impl Reduce for Timed {
    fn asks(&self, layer: usize) -> Asks {
        self.images.asks(layer)
    }

    fn key_bias(&self, layer: usize) -> Option<Tensor<2>> {
        self.images.key_bias(layer)
    }

    fn before_block(&mut self, layer: usize, tokens: Tensor<3>) -> Tensor<3> {
        self.images.before_block(layer, tokens)
    }

    fn after_attention(&mut self, layer: usize, tokens: Tensor<3>, seen: Seen) -> Tensor<3> {
        let start = Instant::now();
        let tokens = self.images.after_attention(layer, tokens, seen);
        self.seconds += start.elapsed().as_secs_f64();
        self.left.push(tokens.dims()[1]);
        tokens
    }

    fn sizes(&self) -> Option<Tensor<2>> {
        self.images.sizes()
    }
}

/// Seconds of a pass, those of them that the reducer took, and the tokens that left the blocks.
fn run(model: &Vision, pixels: &Tensor<4>, plan: Option<&Plan>) -> Result<(f64, f64, Vec<usize>)> {
    let batch = pixels.dims()[0];
    let start = Instant::now();
    let Some(plan) = plan else {
        let hidden = model.forward(pixels.clone(), &mut Batched::whole(batch, None));
        std::hint::black_box(model.logits(&hidden, None));
        return Ok((start.elapsed().as_secs_f64(), 0.0, vec![hidden.dims()[1]; model.config().layers]));
    };
    let reducers: Option<Vec<_>> = (0..batch).map(|_| plan.begin().reducer).collect();
    let images = Images::new(reducers.ok_or("the method reduces no tokens")?, model.config().specials());
    let mut timed = Timed { images, seconds: 0.0, left: Vec::new() };
    let hidden = model.forward(pixels.clone(), &mut Reducing::new(batch, &mut timed));
    std::hint::black_box(model.logits(&hidden, timed.sizes()));
    timed.images.finish()?;
    Ok((start.elapsed().as_secs_f64(), timed.seconds, timed.left))
}

fn compare(
    model: &Vision,
    pixels: &Tensor<4>,
    (names, plans): (&[String], &[Plan]),
    rounds: usize,
) -> Result<()> {
    let cost = VisionCost::of(model.config());
    let batch = pixels.dims()[0];
    run(model, pixels, None)?;
    let times = interleave(plans.len() + 1, rounds, |variant| {
        run(model, pixels, variant.checked_sub(1).map(|at| &plans[at]))
    })?;
    let seconds = |at: usize| times[at].iter().map(|run| run.0).collect::<Vec<_>>();
    let dense = seconds(0);
    let median = Spread::of(&dense).median;
    println!("{} threads, batch {batch}, {} tokens", whit_kernels::parallel::threads(), cost.tokens());
    println!("dense: {:.2} G, {:.1} images a second", cost.dense() as f64 / 1e9, batch as f64 / median);
    for (at, name) in names.iter().enumerate() {
        let (own, left) = (seconds(at + 1), &times[at + 1][0].2);
        let share: Vec<f64> = times[at + 1].iter().map(|run| run.1 / run.0).collect();
        println!(
            "{name}: {:.2} G ({:.1} % less), {:.2} times as fast, {:.1} % of its time in the reducer",
            cost.reduced(left) as f64 / 1e9,
            100.0 * cost.saved(left),
            ratio(&dense, &own).median,
            100.0 * Spread::of(&share).median
        );
    }
    Ok(())
}
