//! One training step of a 5.6 M-parameter language model, the same one as in `bench/peers/train_lm.py`:
//! 6 layers, width 256, vocabulary 2048, batch 16 x 128, AdamW with clipping and averaging.

use burn::tensor::Device;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use whit::train::language::{LanguageRecipe, loss};
use whit::train::optimizer::{AdamW, Memories, Update};
use whit::train::parameters::{Named, add_gradients};
use whit::train::recipes;
use whit::train::windows::{Batch, Shape};

const SHAPE: Shape = Shape { rows: 16, sequence: 128 };
const VOCABULARY: usize = 2048;

fn recipe() -> LanguageRecipe {
    let mut recipe = (recipes::find(recipes::RECIPES, "rust-lm").expect("it is in the list").settings)();
    recipe.config["num_hidden_layers"] = json!(6);
    recipe.config["intermediate_size"] = json!(768);
    recipe.config["num_key_value_heads"] = json!(4);
    LanguageRecipe { vocabulary: VOCABULARY, shape: SHAPE, ..recipe }
}

fn step(criterion: &mut Criterion) {
    let mut model = Some(recipe().model(&Device::flex().autodiff()).expect("the configuration is sound"));
    let mut memories = Memories::new();
    let tokens = SHAPE.rows * SHAPE.sequence;
    let ids = |shift: usize| (0..tokens).map(|at| ((at + shift) * 7919 % VOCABULARY) as u32).collect();
    let batch = Batch { shape: SHAPE, inputs: ids(0), targets: ids(1) };
    let mut count = 0;
    let mut group = criterion.benchmark_group("train");
    group.sample_size(10).throughput(Throughput::Elements(tokens as u64));
    group.bench_function("step of 6 x 256, 16 x 128 tokens", |bencher| {
        bencher.iter(|| {
            let network = model.take().expect("every step puts it back");
            let mut gradients = Named::new();
            add_gradients(&network, &mut loss(&network, &batch).backward(), &mut gradients);
            count += 1;
            let update = Update { gradients, learning_rate: 1e-3, count };
            let norm = update.norm();
            model = Some(AdamW::default().step(network, &mut memories, update, norm));
        });
    });
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
