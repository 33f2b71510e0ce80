//! DiffRate (Chen et al., 2023, arXiv 2305.17997): how many tokens each block prunes and merges is learnt, for a
//! given cost, on a model whose weights stay as they are. Tokens are ranked by the attention of the class token; the
//! last are pruned, those before them merged into the most similar of the rest. Learning moves only the counts, a
//! few small vectors, by gradients through masks and through the formula of the cost ([`crate::train::rates`]). The
//! counts are then a table of integers, used here.

use std::sync::Arc;

use crate::methods::reducers::rates::{Rates, RatesError};
use crate::methods::reducers::{CLAIMS, Looks, STAGES, TokenMap, Tokens, published, ranking};
use crate::methods::{
    Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Paper, Room, Spec,
    Stage, Stages, TokenReducer, Value,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: ID,
    title: "DiffRate",
    paper: Paper {
        title: "DiffRate: Differentiable Compression Rate for Efficient Vision Transformers",
        authors: "Mengzhao Chen, Wenqi Shao, Peng Xu, Mingbao Lin, Kaipeng Zhang, Fei Chao, Rongrong Ji, Yu Qiao, Ping \
                  Luo",
        year: 2023,
        arxiv: "2305.17997",
    },
    room: Room::Tokens,
    fidelity: Fidelity::Lossy,
    summary: "How many tokens each block of a vision transformer prunes and merges is learnt by gradients for a given \
              cost, while the weights stay as they are. What is learnt is a table of counts, used afterwards without \
              any training.",
    long: LONG,
    stages: STAGES,
    claims: CLAIMS,
    knobs: KNOBS,
    needs: &[],
    models: &[ModelKind::Vision],
    headlines: &[
        Headline {
            setting: "DeiT-S, ImageNet, 4.6 to 2.9 G operations, weights untouched",
            metric: "top-1",
            baseline: "79.8",
            result: "79.54",
        },
        Headline {
            setting: "DeiT-B, 17.6 to 11.5 G operations, weights untouched",
            metric: "top-1",
            baseline: "81.8",
            result: "81.50",
        },
        Headline {
            setting: "MAE ViT-H, 167.4 to 103.4 G operations, weights untouched",
            metric: "top-1, speed",
            baseline: "86.9, 1x",
            result: "86.66, 1.5x",
        },
    ],
    build,
};

const ID: &str = "diffrate";

const KNOBS: &[Knob] = &[
    Knob {
        name: "schedule",
        kind: Kind::Text {
            what: "a file that `whit calibrate diffrate` wrote, or the name of a published schedule",
        },
        default: Value::Text(std::borrow::Cow::Borrowed("")),
        off: None,
        help: "the learnt counts; empty for an even pace that nobody learnt",
    },
    Knob {
        name: "r",
        kind: Kind::Int { min: 0, max: 256 },
        default: Value::Int(13),
        off: Some(Value::Int(0)),
        help: "without a schedule: patches that go in every block but the first, half of them pruned, half merged",
    },
];

const LONG: &str = "\
## How it works

In each block, behind its attention:

1. The patches are ranked by the attention of the class token, averaged over the heads, and sorted.
2. All behind the first so many are pruned.
3. Of the rest, the last ones are merged, each into the most similar of those before it, by the cosine of their states. A
   merged token is the plain mean of its group. Its size grows by the sizes of what came to it, each times its cosine.
4. From then on attention adds the logarithm of a token's size to its scores.

The two counts of every block are learnt:

```
whit calibrate diffrate --model DIR --images DIR --keep 0.6 --out schedule.json
whit classify --model DIR --with diffrate:schedule=schedule.json image.png
```

Each count is the expectation of a softmax over candidates, rounded up. The forward pass of learning masks tokens instead of
removing them; gradients go through the masks to the probability that the token at a rank survives, and through the formula
of the cost. The loss is the model's own plus five times the squared distance from the wanted cost. Only the logits of the
candidates are learnt.

A schedule is JSON: `prune` and `merge`, for each block the tokens left by either, the class token among them. Those that
the authors learnt on ImageNet are known by name, for use without learning on the same models at 224 pixels: the model and
its G operations, as in `diffrate:schedule=deit-s-2.9`. There are `deit-t-` 0.6 to 1.0 in tenths, `deit-s-` 2.3, 2.5, 2.7, 2.9
and 3.1, `deit-b-` 8.7, 10.0, 10.4, 11.5 and 12.5, `mae-b-` 8.7, 10.0, 10.4 and 11.5, `mae-l-` 31.0, 34.7, 38.5, 42.3 and 46.1,
`mae-h-` 83.7, 93.2, 103.4 and 124.5.

## When it pays

Where one schedule is used on many images: learning it takes a few hundred steps, using it takes nothing. Learnt counts may
differ from block to block, which those of an even pace cannot.

## What is ours

Without a `schedule` an even pace is used, so that the rule can be tried; the paper has none. A cosine below zero adds
nothing to a size, where the authors' code would make it negative and its logarithm meaningless. Models without a class
token rank by the attention that a token gets from all others; on such models the paper merges only. `whit calibrate diffrate
--merge-only` learns such a schedule for any model.

The cost in the loss is a share of the dense cost, weighted as the paper weighs G operations at the 4.6 G of DeiT-S, so that
the same weight serves models of any size. Calibration needs no labels: it learns from the answers that the model gives with
all its tokens. The paper learns from labels, with mixed and augmented images.";

/// The method with its counts.
#[derive(Clone, Debug)]
struct DiffRate {
    pace: Pace,
    layers: usize,
}

#[derive(Clone, Debug)]
enum Pace {
    Learnt(Arc<Rates>),
    Even(usize),
}

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let file = knobs.text("schedule");
    let pace = match file {
        "" => Pace::Even(knobs.int("r")),
        _ => {
            let rates = schedule(file, model.layers);
            Pace::Learnt(Arc::new(rates.map_err(|error| knobs.unfit("schedule", error.to_string()))?))
        }
    };
    Ok(Arc::new(DiffRate { pace, layers: model.layers }))
}

/// The schedule in a file or of a name, for a model of so many blocks.
fn schedule(source: &str, layers: usize) -> Result<Rates, RatesError> {
    let rates = match published::published(source) {
        Some(rates) => rates,
        None => Rates::read(source.as_ref())?,
    };
    rates.check(layers)?;
    Ok(rates)
}

impl DiffRate {
    /// The patches that pruning leaves and that merging leaves.
    fn keeps(&self, layer: usize, patches: usize, protected: usize) -> [usize; 2] {
        let counts = match &self.pace {
            Pace::Learnt(rates) => rates.block(layer).map(|count| count.saturating_sub(protected)),
            Pace::Even(_) if layer == 0 => [patches; 2],
            Pace::Even(r) => [patches.saturating_sub(r / 2), patches.saturating_sub(*r)],
        };
        let prune = counts[0].clamp(1.min(patches), patches);
        [prune, counts[1].clamp(1.min(patches), prune)]
    }
}

impl Method for DiffRate {
    fn begin(&self) -> Stages {
        let state: Box<dyn TokenReducer> = Box::new(self.clone());
        Stages::from_iter([Stage::TokenReducer(state)])
    }

    fn expect(&self) -> String {
        match &self.pace {
            Pace::Learnt(rates) => rates.to_string(),
            Pace::Even(r) => format!("{r} tokens fewer in each of {} blocks but the first", self.layers),
        }
    }
}

impl TokenReducer for DiffRate {
    fn acts(&self, layer: usize, patches: usize) -> bool {
        match &self.pace {
            // The class token is not known here; it is in both counts.
            Pace::Learnt(rates) => {
                let other_image = layer == 0 && patches + rates.protected != rates.tokens;
                other_image || rates.block(layer)[1] < patches + rates.protected
            }
            Pace::Even(_) => self.keeps(layer, patches, 0)[1] < patches,
        }
    }

    fn looks(&self) -> Looks {
        Looks { keys: false, attention: true }
    }

    fn proportional(&self) -> bool {
        true
    }

    fn reduce(&mut self, tokens: &Tokens<'_>) -> Result<Option<TokenMap>, MethodError> {
        let failed = |reason| MethodError::Failed { method: ID, reason };
        if let Pace::Learnt(rates) = &self.pace {
            rates.fits(tokens).map_err(|error| failed(error.to_string()))?;
        }
        let [prune, merge] = self.keeps(tokens.layer, tokens.patches(), tokens.protected);
        if merge == tokens.patches() {
            return Ok(None);
        }
        ranking::pruned_and_merged(tokens, prune, merge).map(Some).map_err(|error| failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::reducers::testing::{counts, outputs};
    use crate::methods::{Plan, Selection};

    fn file(rates: &Rates) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("schedule.json");
        std::fs::write(&path, rates.to_json()).unwrap();
        let method = format!("diffrate:schedule={}", path.display());
        (folder, method)
    }

    #[test]
    fn a_schedule_decides_the_counts_down_to_two_patches() {
        let rates = Rates::new(65, 1, vec![65, 40, 30, 3], vec![65, 35, 30, 3]);
        let (_folder, method) = file(&rates);
        assert_eq!(counts(&method, 4, 65), [65, 35, 30, 3]);
        assert_eq!(counts("diffrate:r=10", 4, 65), [65, 55, 45, 35]);
    }

    #[test]
    fn a_published_schedule_is_known_by_its_name() {
        let left = counts("diffrate:schedule=deit-s-2.9", 12, 197);
        assert_eq!(left, [197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3]);
    }

    #[test]
    fn a_schedule_that_keeps_all_changes_nothing() {
        let (_folder, method) = file(&Rates::new(33, 1, vec![33; 3], vec![33; 3]));
        let all = outputs(&method, 3, 33, 2);
        assert_eq!(all[0], all[2]);
    }

    #[test]
    fn a_schedule_of_another_model_or_image_is_refused() {
        let (_folder, method) = file(&Rates::new(65, 1, vec![65, 30], vec![65, 30]));
        let facts = |layers| ModelFacts { kind: ModelKind::Vision, layers, ..ModelFacts::example() };
        let plan = |layers| Plan::new(&Selection::parse(&[&method]).unwrap(), &facts(layers));
        let error = plan(3).unwrap_err().to_string();
        assert!(error.contains("schedule") && error.contains("2 counts"), "{error}");
        let mut reducer = plan(2).unwrap().begin().reducer.unwrap();
        assert!(reducer.acts(0, 32));
        let owned = crate::methods::reducers::tokens::testing::Owned::random(33, 1, 1);
        let error = reducer.reduce(&owned.view()).unwrap_err().to_string();
        assert!(error.contains("65 tokens") && error.contains("has 33"), "{error}");
    }
}
