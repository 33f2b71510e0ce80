//! CRATE, the white-box transformer (Yu et al., 2023, arXiv 2306.01129): every layer is one step that brings tokens
//! nearer to a few low-dimensional subspaces, which turns out as attention whose queries, keys and values are the same,
//! and one step of ISTA that makes them sparse, in the place of the feed-forward part. A block has a quarter of a plain
//! one's weights. As keys are values, a language model's cache need hold one of the two; that is what is switched here.
//! The architecture itself is that of the model: [`nn::white`](crate::nn::white).

use std::sync::Arc;

use crate::generate::cache::{CacheShape, HeadRows};
use crate::methods::{
    Access, Claim, Fidelity, Headline, Kind, Knob, Knobs, KvPolicy, Method, MethodError, ModelFacts,
    ModelKind, Moment, Need, Observation, Observed, Paper, Resource, Room, Spec, Stage, StageKind, Stages,
    Value,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "crate-whitebox",
    title: "CRATE, the white-box transformer",
    paper: Paper {
        title: "White-Box Transformers via Sparse Rate Reduction",
        authors: "Yaodong Yu, Sam Buchanan, Druv Pai, Tianzhe Chu, Ziyang Wu, Shengbang Tong, \
                  Benjamin D. Haeffele, Yi Ma",
        year: 2023,
        arxiv: "2306.01129",
    },
    room: Room::Weights,
    fidelity: Fidelity::Exact,
    summary: "In a white-box transformer queries, keys and values are one projection, and one step of sparse coding \
              stands in the place of the feed-forward part: a quarter of the weights in each block. With the method \
              on, the cache of such a language model holds one row a token where another holds two: keys are the \
              values. The text does not change.",
    long: LONG,
    stages: &[StageKind::KvPolicy],
    claims: &[Claim { resource: Resource::KvRows, access: Access::Transform }],
    knobs: &[Knob {
        name: "tied",
        kind: Kind::Flag,
        default: Value::Flag(true),
        off: Some(Value::Flag(false)),
        help: "keep one row where keys and values are the same; false keeps both, as for any other model",
    }],
    needs: &[Need::Weights("a model trained as CRATE (`whit train crate-lm` makes a small one)")],
    models: &[ModelKind::Decoder],
    headlines: &[
        Headline {
            setting: "ImageNet-1K, 224 px, CRATE-T / S / B / L with 6.09 / 13.12 / 22.80 / 77.64 M weights",
            metric: "top-1, %",
            baseline: "ViT-T 71.5 (5.72 M), ViT-S 72.4 (22.05 M)",
            result: "66.7 / 69.2 / 70.8 / 71.3",
        },
        Headline {
            setting: "transfer to CIFAR-10 / CIFAR-100, CRATE-B",
            metric: "accuracy, %",
            baseline: "ViT-S 97.2 / 83.2",
            result: "96.8 / 82.7",
        },
        Headline {
            setting: "masked autoencoding, CRATE-MAE-B (arXiv 2404.02446)",
            metric: "weights",
            baseline: "ViT-MAE-B 143.8 M",
            result: "44.6 M",
        },
    ],
    build,
};

const LONG: &str = "\
## How it works

The aim is that the tokens' representation `Z` spans much (a high coding rate `R(Z)`), lies near few subspaces `U_1..U_K`
(a low `R^c(Z | U)`) and is sparse. A layer takes one step towards each of the last two:

1. *Compression.* `w = norm(x) U^T`, split into heads; each head's attention has `w` as query, key and value:
   `softmax(w w^T / sqrt(d_h)) w`. Its result goes through an output matrix and is added to `x`.
2. *Sparsification.* With `z` the norm of that, one step of ISTA in a dictionary `D`:
   `relu(z + eta (z D - z D^T D) - eta lambda)`. Nothing is added to it, so a block's output is never negative.

A block has 3 d² weights where a plain one has 12 d², and costs 4 d² + 2 n d multiplications a token where a plain one
costs 12 d² + 2 n d: the step is computed as `(z - z D^T) D`, which is one product less than the formula has.

What there is:

- **Classifiers of images**, `\"model_type\": \"crate\"`, in the layout of the official checkpoints: everything that works
  on a vision transformer works on them (`whit classify`, `embed`, `forward`, token reducers, training). `ista`, `lambd`,
  `pool` and `tied_output` are fields of `config.json`. Recipes: `toy-crate`, and `toy-vit-192` to compare with.
- **Masked autoencoders of images**, `\"model_type\": \"crate_mae\"`, in the layout of the official checkpoints. The encoder
  sees every place, hidden ones with a mask in them; each block of the decoder undoes one of the encoder's: a linear map,
  then the attention with a minus in front. `whit forward` reconstructs, `whit embed` uses the encoder. Recipe:
  `toy-crate-mae`.
- **Text encoders**, `\"model_type\": \"crate_bert\"`: BERT's fields and names with such blocks.
- **Language models**, `\"model_type\": \"crate_gpt\"`: GPT-2 with such blocks, a causal mask and no norm behind the last
  block, in the layout of the official code. Recipe: `crate-lm`. This method halves what their cache holds in keys and
  values; where a head keeps its rows once, whatever merges rows of keys and values apart (`cam`, `ems`) gives that head
  two again.
- **Measurements.** `whit bench coding-rate --model DIR` shows for each layer the rate `R^c` of the tokens against the
  layer's subspaces, and the share of the values behind ISTA that are not zero. In a trained model both should fall from
  layer to layer: this is what a layer is for, so a layer in which they do not does something else.

## When it pays

Where weights, not accuracy, are what is short: at the same width and depth a white-box model is smaller and faster, and
less accurate. By the paper's own figures a ViT of as many weights is better: CRATE-B with 22.8 M has 70.8 %, ViT-S with
22 M has 72.4 %. What one gets for it is that each layer can be measured against what it is for, and a cache of half the
size. `tied` costs nothing where it fits, and is refused where keys are not values.

## What is ours

The models follow the official code, which differs from the formulas of the paper: norms before both steps, an output
matrix of its own in the place of `U^T` (`\"tied_output\": true` is the paper's), a plain residual, the scale
`1 / sqrt(d_h)`. `U` and `D` are not kept orthogonal. The ISTA step is computed with two products instead of three. The
dictionary is packed twice, once for each side, and quantised types round each side on its own. Before training, weights
are normal with the deviations of the original's uniform distributions. That the cache may hold one of keys and values is
a remark of ours; nothing in the model is changed for it. Rates are computed by the d_h x d_h form of the determinant.";

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    if model.tied_keys {
        let shape = CacheShape { layers: model.layers, kv_heads: model.kv_heads, head_dim: model.head_dim };
        return Ok(Arc::new(TiedCache { shape }));
    }
    Err(MethodError::Unfit {
        method: SPEC.id,
        knob: "tied",
        value: knobs.flag("tied").to_string(),
        reason: format!(
            "in {} keys and values are not the same (`model_type` crate_gpt in config.json)",
            model.architecture
        ),
    })
}

/// The method, built for one model.
#[derive(Debug)]
struct TiedCache {
    shape: CacheShape,
}

impl Method for TiedCache {
    fn begin(&self) -> Stages {
        Stages::from_iter([Stage::KvPolicy(Box::new(Tie))])
    }

    fn expect(&self) -> String {
        let both = self.shape.bytes_per_token();
        let once = both - self.shape.layers * self.shape.kv_heads * self.shape.head_dim * size_of::<f32>();
        format!("a token takes {once} bytes of the cache instead of {both}")
    }
}

/// Has no state: what a head keeps says itself whether it keeps it once.
#[derive(Debug)]
struct Tie;

impl KvPolicy for Tie {
    fn observe(&self, _: usize, _: Moment) -> Observation {
        Observation::default()
    }

    fn lasts(&self) -> bool {
        false
    }

    fn revise(&mut self, _: &Observed<'_>, cache: &mut [HeadRows]) -> Result<(), MethodError> {
        cache.iter_mut().for_each(HeadRows::tie);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::generate::{Request, Scheduler, Statistics};
    use crate::measure::{quality, stepwise};
    use crate::methods::{Plan, Selection};
    use crate::models;
    use crate::nn::decoder::{Decoder, DecoderConfig};
    use crate::nn::vars::{Precision, Random, Storage, Vars};
    use crate::nn::white::Initial;

    fn config(kind: &str) -> DecoderConfig {
        let config = json!({
            "model_type": kind, "vocab_size": 96, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128,
        });
        (models::architecture(&config).unwrap().config)(&config).unwrap()
    }

    fn model(kind: &str) -> Decoder {
        let (source, storage) = (Initial { random: Random { seed: 5 } }, Storage::Packed(Precision::Native));
        Decoder::new(config(kind), &Vars::new(&source, &storage)).unwrap()
    }

    fn plan(model: &Decoder, methods: &[&str]) -> Plan {
        let facts = ModelFacts::decoder("crate_gpt", model.config());
        Plan::new(&Selection::parse(methods).unwrap(), &facts).unwrap()
    }

    /// The tokens of requests that run together, and the costs of the first.
    fn run(model: &Decoder, methods: &[&str], seeds: &[u32]) -> (Vec<Vec<u32>>, Statistics) {
        let (plan, mut scheduler) = (plan(model, methods), Scheduler::new(model).with_chunk(5));
        for &seed in seeds {
            let prompt = (0..seed % 5 + 9).map(|at| (at * 31 + seed * 7) % 96).collect();
            scheduler.add(Request { prompt, max_tokens: 30, ..Request::default() }, plan.begin()).unwrap();
        }
        let mut texts = vec![Vec::new(); seeds.len()];
        scheduler.run(|_, event| texts[event.id].extend(&event.tokens)).unwrap();
        (texts, scheduler.statistics(0).unwrap())
    }

    #[test]
    fn one_row_for_both_changes_no_token() {
        let model = model("crate_gpt");
        let (plain, _) = run(&model, &[], &[1, 2, 3]);
        for methods in [
            &["crate-whitebox"][..],
            &["crate-whitebox:tied=false"],
            &["token-recycling:tree=12,tune=false", "crate-whitebox"],
            &["prompt-lookup", "crate-whitebox"],
        ] {
            assert_eq!(run(&model, methods, &[1, 2, 3]).0, plain, "{methods:?}");
            assert_eq!(run(&model, methods, &[2]).0[0], plain[1], "{methods:?}");
        }
    }

    /// Methods that evict or merge rows run beside it, and give what they give where rows are kept twice.
    #[test]
    fn eviction_and_merging_give_the_same_on_either_cache() {
        let model = model("crate_gpt");
        for method in ["h2o:budget=8", "cam:budget=8,recent=4", "ems:budget=33,slack=1", "tova:budget=8"] {
            let (both, once) = (run(&model, &[method], &[3]), run(&model, &["crate-whitebox", method], &[3]));
            assert_eq!(both.0, once.0, "{method}");
        }
    }

    /// In the numbers of keys and values; each row's position is kept besides.
    #[test]
    fn the_cache_holds_half_of_a_gpt_2s() {
        let bytes = |kind, methods: &[&str]| run(&model(kind), methods, &[1]).1.cache_bytes;
        let (gpt2, plain) = (bytes("gpt2", &[]), bytes("crate_gpt", &[]));
        let tied = bytes("crate_gpt", &["crate-whitebox"]);
        let per_token = CacheShape { layers: 3, kv_heads: 4, head_dim: 16 }.bytes_per_token();
        assert_eq!((gpt2, gpt2 % per_token), (plain, 0));
        let positions = gpt2 / per_token * 3 * 4 * size_of::<u32>();
        assert_eq!(2 * (tied - positions), gpt2 - positions);
    }

    /// Decoded step by step, every token has the loss that one pass over everything gives it.
    #[test]
    fn decoding_with_the_cache_equals_one_pass() {
        let model = model("crate_gpt");
        let text: Vec<u32> = (0..60).map(|index| index * index % 91).collect();
        let whole = quality::token_losses(&model, &text, 60);
        for methods in [&[][..], &["crate-whitebox"]] {
            let found = stepwise::losses(&model, &plan(&model, methods), &text, 20).unwrap();
            assert_eq!(found.len(), 40);
            let worst = found.iter().zip(&whole[19..]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-5, "{worst}");
        }
    }

    #[test]
    fn other_models_are_refused_by_name() {
        let facts = ModelFacts::decoder("gpt2", &config("gpt2"));
        let error =
            Plan::new(&Selection::parse(&["crate-whitebox"]).unwrap(), &facts).unwrap_err().to_string();
        assert!(error.contains("gpt2") && error.contains("keys and values are not the same"), "{error}");
    }
}
