//! What drafting costs beside one step of a model of 7B shapes, with random weights: multiplications
//! counted, milliseconds measured. The model has 2 layers here, of which a step of 32 is worked out.
//!
//! cargo run --release --workspace --example draft_cost

use std::time::Instant;

use burn::tensor::Tensor;
use whit::generate::cache::{CacheShape, KvCache};
use whit::generate::forward::{Span, forward};
use whit::methods::MethodError;
use whit::methods::imitation::{Context, Imitator};
use whit::methods::successors::{Successors, Template};
use whit::models;
use whit::nn::chimera::{Drafter, DrafterConfig};
use whit::nn::decoder::Decoder;
use whit::nn::vars::{Precision, Random, Storage, Vars};
use whit_kernels::linear::WeightType;
use whit_kernels::op;

const WIDTH: usize = 4096;
const INNER: usize = 11_008;
const VOCABULARY: usize = 32_000;
const LAYERS: usize = 2;
const HEADS: usize = 4;
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": 32, "vocab_size": VOCABULARY, "max_position_embeddings": 4096,
        "tie_word_embeddings": true,
    });
    let config = (models::architecture(&config)?.config)(&config)?;
    let storage = Storage::Packed(Precision::Fixed(WeightType::Q8_0));
    let random = Random { seed: 0 };
    let model = Decoder::new(config.clone(), &Vars::new(&random, &storage))?;
    let drafter = DrafterConfig { target: config, heads: HEADS, previous: true };
    let drafter = Drafter::new(drafter, &Vars::new(&random, &storage))?;
    multiplications();
    let (body, head) = step(&model, 1)?;
    let whole = 16.0 * body + head;
    println!("one token through 32 layers: {whole:.0} ms (2 layers {body:.1}, head {head:.1})");
    for nodes in [8, 25, 81] {
        let (body, head) = step(&model, nodes)?;
        println!("t({nodes})/t(1): {:.2}", (16.0 * body + head) / whole);
    }
    chimera(&Imitator::with(drafter, &model), whole);
    Ok(recycling(&model)?)
}

/// Weights that every token of a step is multiplied with, against those of a draft of four tokens.
fn multiplications() {
    let layer = (4 * WIDTH * WIDTH + 3 * WIDTH * INNER) as f64;
    let step = 32.0 * layer + (VOCABULARY * WIDTH) as f64;
    // The keys and values of a row are part of the layer; those of what was imitated come on top.
    let pair = (2 * WIDTH * WIDTH) as f64;
    let heads = (VOCABULARY * 2 * WIDTH) as f64;
    let draft = HEADS as f64 * (layer + heads) + (HEADS - 1) as f64 * pair;
    let miss = (9 * WIDTH * WIDTH + 3 * WIDTH * WIDTH) as f64;
    let share = |part: f64| 100.0 * part / step;
    println!("multiplications of a step: {:.2} G", step / 1e9);
    println!(
        "of a draft with {HEADS} heads, all trigrams known: {:.2} G, {:.1} %",
        draft / 1e9,
        share(draft)
    );
    println!("of taking in each committed token: {:.2} G, {:.1} %", pair / 1e9, share(pair));
    println!("of each trigram that is not known: {:.2} G, {:.1} %", miss / 1e9, share(miss));
}

/// Milliseconds of `rows` tokens through the layers, and of the head.
fn step(model: &Decoder, rows: usize) -> Result<(f64, f64), MethodError> {
    let shape = CacheShape { layers: LAYERS, kv_heads: 32, head_dim: 128 };
    let mut cache = KvCache::new(shape, 256);
    forward(model, vec![Span::causal(&mut cache, (0..64).collect(), 64)])?;
    let body = median(|| {
        let mut fork = cache.clone();
        let start = Instant::now();
        op::host(forward(model, vec![Span::causal(&mut fork, (0..rows as u32).collect(), 64)])?);
        Ok(start.elapsed().as_secs_f64())
    })?;
    let states: Tensor<2> = op::tensor(op::Host::new([rows, WIDTH], vec![0.1; rows * WIDTH]));
    let head = median(|| {
        let start = Instant::now();
        op::host(model.logits(states.clone()));
        Ok(start.elapsed().as_secs_f64())
    })?;
    Ok((1e3 * body, 1e3 * head))
}

fn chimera(imitator: &Imitator, step: f64) {
    let mut context = Context::new(imitator);
    context.see(imitator, &vec![0.1; 64 * WIDTH]);
    let text: Vec<u32> = (0..65).collect();
    let mut draft = |shift: u32| {
        let start = Instant::now();
        context.draft(imitator, &text, HEADS, &mut |_| 7 + shift);
        1e3 * start.elapsed().as_secs_f64()
    };
    draft(0);
    let hit = {
        let mut times: Vec<f64> = (0..ROUNDS).map(|_| draft(0)).collect();
        times.sort_by(f64::total_cmp);
        times[ROUNDS / 2]
    };
    let mut times: Vec<f64> = (1..=ROUNDS as u32).map(&mut draft).collect();
    times.sort_by(f64::total_cmp);
    println!("a draft, trigrams known: {hit:.1} ms, {:.1} % of a step", 100.0 * hit / step);
    println!("a draft, {} trigrams new: {:.1} ms", HEADS - 1, times[ROUNDS / 2]);
}

/// Filling the tree of 80 nodes from the table and renewing its rows, against the verification.
fn recycling(model: &Decoder) -> Result<(), MethodError> {
    let (template, mut table) = (Template::paper(8), Successors::new(VOCABULARY, 8));
    let tokens: Vec<u32> = (0..81).collect();
    let logits: Vec<f32> = (0..81 * VOCABULARY).map(|index| ((index * 7919) % 10_007) as f32).collect();
    table.learn(&tokens, &logits);
    let own = median(|| {
        let start = Instant::now();
        let filled = template.fill(0, &table);
        let tree = template.tree(0, &filled, 80, 6);
        table.learn(&tokens, &logits);
        let seconds = start.elapsed().as_secs_f64();
        tree.map(|_| seconds)
    })?;
    let (body, head) = step(model, 81)?;
    let verify = 16.0 * body + head;
    let (own, share) = (1e3 * own, 1e5 * own / verify);
    println!("token recycling, draft and update: {own:.2} ms, {share:.2} % of a verification of 81 nodes");
    Ok(())
}

fn median(mut seconds: impl FnMut() -> Result<f64, MethodError>) -> Result<f64, MethodError> {
    seconds()?;
    let mut times = (0..ROUNDS).map(|_| seconds()).collect::<Result<Vec<f64>, _>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[ROUNDS / 2])
}
