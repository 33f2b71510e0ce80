//! How often a trained vision transformer finds the class of a scene with fewer tokens: each method at the pace at
//! which it costs the same. Arguments: FOLDER SHARE PICTURES METHOD[:KNOBS] ...; the methods get a knob `list` that
//! leaves SHARE of the dense cost, unless they have one or are `diffrate`.

use std::error::Error;

use burn::tensor::{Device, Tensor};
use whit::load;
use whit::measure::macs::VisionCost;
use whit::methods::reducers::Images;
use whit::methods::{Plan, Selection};
use whit::models;
use whit::nn::reduce::{Reduce, Reducing};
use whit::nn::vars::Storage;
use whit::nn::vision::Vision;
use whit::train::recipes;
use whit::train::vision::Classification;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: &str| arguments.get(at).map_or(default, String::as_str).to_owned();
    let (folder, share, pictures) =
        (number(0, "train/toy-vit/model"), number(1, "0.6").parse()?, number(2, "2000").parse()?);
    let files = load::open(&folder, &load::Options { offline: true, ..load::Options::default() })?;
    let storage = Storage::Dense(Device::flex());
    let model = models::vision::vision(&files.config, files.weights.as_ref(), &storage, &|_| {})?;
    let recipe = recipes::classifier("toy-vit").ok_or("there is no recipe for the pictures")?;
    let recipe = (recipe.vision)();
    let objective = Classification::new(&recipe, recipe.pictures(None)?)?;
    let facts = models::facts(&files.config)?;
    let plan = |method: &str| -> Result<Plan> {
        let methods: Vec<&str> = Some(method).filter(|method| !method.is_empty()).into_iter().collect();
        Ok(Plan::new(&Selection::parse(&methods)?, &facts)?)
    };
    let cost = VisionCost::of(model.config());
    let dense = objective.accuracy(&model, &plan("")?, pictures)?;
    println!("dense: {:.1} M, {:.2} % of {pictures} pictures", cost.dense() as f64 / 1e6, 100.0 * dense);
    for method in &arguments[3.min(arguments.len())..] {
        let method = paced(&model, method, share, &plan)?;
        let left = left(&model, &plan(&method)?)?;
        let found = objective.accuracy(&model, &plan(&method)?, pictures)?;
        let (saved, lost) = (100.0 * cost.saved(&left), 100.0 * (dense - found));
        println!(
            "{method}: {saved:.1} % less, {:.2} % right, {lost:+.2} points lost, tokens {left:?}",
            100.0 * found
        );
    }
    Ok(())
}

/// The method with the even list of removals that comes nearest to the wanted cost.
fn paced(model: &Vision, method: &str, share: f64, plan: &dyn Fn(&str) -> Result<Plan>) -> Result<String> {
    if method.contains("list=") || method.starts_with("diffrate") || method.contains("stages") {
        return Ok(method.to_owned());
    }
    let (cost, layers) = (VisionCost::of(model.config()), model.config().layers);
    let joint = if method.contains(':') { ',' } else { ':' };
    let mut best = (f64::INFINITY, method.to_owned());
    for total in 1..cost.patches {
        let count = |layer: usize| (total * (layer + 1) / layers - total * layer / layers).to_string();
        let list = (0..layers).map(count).collect::<Vec<_>>().join("|");
        let paced = format!("{method}{joint}list={list}");
        let left = left(model, &plan(&paced)?)?;
        let distance = (1.0 - cost.saved(&left) - share).abs();
        if distance < best.0 {
            best = (distance, paced);
        }
    }
    Ok(best.1)
}

/// The tokens that leave the blocks.
fn left(model: &Vision, plan: &Plan) -> Result<Vec<usize>> {
    let [height, width] = model.config().image;
    let reducer = plan.begin().reducer.ok_or("the method reduces no tokens")?;
    let mut counted =
        Counted { images: Images::new(vec![reducer], model.config().specials()), left: Vec::new() };
    let pixels = Tensor::<4>::ones([1, 3, height, width], &Device::flex());
    model.forward(pixels, &mut Reducing::new(1, &mut counted));
    counted.images.finish()?;
    Ok(counted.left)
}

struct Counted {
    images: Images,
    left: Vec<usize>,
}

impl Reduce for Counted {
    fn asks(&self, layer: usize) -> whit::nn::reduce::Asks {
        self.images.asks(layer)
    }

    fn key_bias(&self, layer: usize) -> Option<Tensor<2>> {
        self.images.key_bias(layer)
    }

    fn before_block(&mut self, layer: usize, tokens: Tensor<3>) -> Tensor<3> {
        self.images.before_block(layer, tokens)
    }

    fn after_attention(
        &mut self,
        layer: usize,
        tokens: Tensor<3>,
        seen: whit::nn::reduce::Seen,
    ) -> Tensor<3> {
        let tokens = self.images.after_attention(layer, tokens, seen);
        self.left.push(tokens.dims()[1]);
        tokens
    }
}
