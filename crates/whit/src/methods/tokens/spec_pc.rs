//! SpecPC (Galim et al., 2025, arXiv 2506.08373): what of a long prompt matters is seen well enough by a
//! small model of the same family. The draft model reads the prompt once; how much its later layers
//! attend from the last tokens to each earlier one is smoothed, and the best tokens, their neighbours and
//! the end of the prompt are kept. The target model reads the short prompt only, as if it were all, so
//! its time, its cache and every later step shrink with it. Tokens are gone for good, so the
//! output changes. It is the prompt half of draft-based approximate inference.

use std::sync::Arc;

use crate::methods::foresight::{Foresight, NEED, ON_DRAFT_ERROR, PAPER, Recent, uncut};
use crate::methods::gaze::Gaze;
use crate::methods::importance::Choice;
use crate::methods::{
    Access, Claim, Edited, Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind,
    Prompt, PromptEdit, Resource, Room, Spec, Stage, StageKind, Stages, Value,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "spec-pc",
    title: "SpecPC (draft-based approximate inference, prompt)",
    paper: PAPER,
    room: Room::Tokens,
    fidelity: Fidelity::Lossy,
    summary: "A small draft model of the same family reads the prompt first. The tokens that its later \
              layers attend to from the end of the prompt, and their neighbours, are kept; the model reads \
              only those. Reading a long prompt then costs a fraction, and so do the cache and every later \
              step. Nothing is trained.",
    long: LONG,
    stages: &[StageKind::PromptEdit],
    claims: &[Claim { resource: Resource::Prompt, access: Access::Transform }],
    knobs: &[
        Knob {
            name: "capacity",
            kind: Kind::Int { min: 0, max: 65_536 },
            default: Value::Int(2048),
            off: Some(Value::Int(0)),
            help: "tokens of the prompt that stay; shorter prompts are left as they are",
        },
        Knob {
            name: "window",
            kind: Kind::Int { min: 1, max: 1024 },
            default: Value::Int(64),
            off: None,
            help: "last tokens of the prompt, which stay and from which the draft looks back",
        },
        Knob {
            name: "kernel",
            kind: Kind::Int { min: 1, max: 1024 },
            default: Value::Int(32),
            off: None,
            help: "scores are smoothed by the greatest of so many",
        },
        Knob {
            name: "neighbours",
            kind: Kind::Int { min: 1, max: 1024 },
            default: Value::Int(32),
            off: None,
            help: "tokens around a good one that stay with it, itself included",
        },
        Knob {
            name: "first-layer",
            kind: Kind::Ratio,
            default: Value::Float(0.5),
            off: None,
            help: "how deep in the draft looking begins, as a share of its layers; the paper's is layer 8 of 16",
        },
        Knob {
            name: "lookahead",
            kind: Kind::Int { min: 1, max: 4096 },
            default: Value::Int(1),
            off: None,
            help: "tokens that the draft writes, whose attention counts too; 1 is reading alone",
        },
        Knob {
            name: "first",
            kind: Kind::Flag,
            default: Value::Flag(true),
            off: None,
            help: "always keep the first token, on which many models rest their attention; the paper does not",
        },
        ON_DRAFT_ERROR,
    ],
    needs: &[NEED],
    models: &[ModelKind::Decoder],
    headlines: &[Headline {
        setting: "LongBench, 1024 tokens of the prompt kept",
        metric: "score",
        baseline: "LLMLingua-2 30.90, SpecPrefill 42.70",
        result: "43.66",
    }],
    build,
};

const LONG: &str = "\
## How it works

1. The draft model reads the prompt. In every layer from `first-layer` on, the attention weights of the last `window`
   tokens on all tokens before are looked at, the later ones counting more (from 0 for the first of the window to 1 for
   the last). With `lookahead` above 1 the draft also goes on writing, and the attention of what it writes counts too.
2. The score of a token is the most attention that it got: over layers, heads and queries.
3. Scores are smoothed by the greatest of `kernel` scores around each.
4. The best `capacity` tokens are taken in order, each with its `neighbours`, nearest first, behind the last `window`
   tokens, until `capacity` tokens are found. Tokens that may not be cut, those of a chat template say, stay too.
5. The model reads the kept tokens in their order, at positions that count from zero without gaps.

Prompts of up to `capacity` tokens are left as they are, and the draft does not run.

## When it pays

When prompts are long, most of them does not matter for the answer, and the draft model is much smaller than the model:
what it costs is one reading of the whole prompt by the draft. The text falls into fragments; a question whose answer is
spread over all of the prompt loses. `spec-kv` keeps the whole text readable and drops cache rows only; with its `prompt`
knob it does both with one run of the draft.

Conversations that grow are cut anew at every turn, and a selection depends on the whole prompt, so nothing of a cached
prefix can be reused. The choices for the latest prompts are remembered; asking again for one of them costs no draft.

## What is ours

`first` keeps the first token, on which many models rest attention that is of no use elsewhere; switch it off for the
paper's choice. The paper counts layers (8 for a draft of 16), `first-layer` is a share of them, so that the default fits
any draft. Parts of a prompt that may not be cut are the engine's rule. `on-draft-error=dense` reads the whole prompt
where the draft fails, for instance because its context is too short. Reductions over window, heads and layers take
the greatest, as the released code does by default.";

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let choice = Choice {
        capacity: knobs.int("capacity"),
        window: knobs.int("window"),
        kernel: knobs.int("kernel"),
        neighbours: knobs.int("neighbours"),
    };
    if choice.window > choice.capacity {
        return Err(knobs.unfit("capacity", format!("the window of {} does not fit in", choice.window)));
    }
    let foresight = Foresight::new(knobs, model)?;
    Ok(Arc::new(SpecPc {
        shared: Arc::new(Shared {
            choice,
            first_layer: foresight.first_layer(knobs, "first-layer")?,
            lookahead: knobs.int("lookahead"),
            first: knobs.flag("first"),
            foresight,
            recent: Recent::default(),
        }),
    }))
}

/// The method, built for one model.
#[derive(Debug)]
struct SpecPc {
    shared: Arc<Shared>,
}

/// What all sequences share.
#[derive(Debug)]
struct Shared {
    foresight: Foresight,
    choice: Choice,
    first_layer: usize,
    lookahead: usize,
    first: bool,
    /// Scores of the latest prompts.
    recent: Recent<Arc<Vec<f32>>>,
}

impl Method for SpecPc {
    fn begin(&self) -> Stages {
        Stages::from_iter([Stage::PromptEdit(Box::new(Cutter { shared: Arc::clone(&self.shared) }))])
    }

    fn expect(&self) -> String {
        let Shared { choice, first_layer, .. } = &*self.shared;
        format!(
            "prompts above {} tokens cut to as many, by the draft's attention from layer {first_layer} on",
            choice.capacity
        )
    }
}

/// The state of one sequence.
#[derive(Debug)]
struct Cutter {
    shared: Arc<Shared>,
}

impl PromptEdit for Cutter {
    fn edit(&mut self, prompt: &Prompt<'_>) -> Result<Edited, MethodError> {
        let shared = &self.shared;
        if prompt.ids.len() <= shared.choice.capacity {
            return Ok(Edited::Unchanged);
        }
        let scores = shared.foresight.forgive(shared.scores(prompt.ids).map(Some))?;
        Ok(scores.map_or(Edited::Unchanged, |scores| {
            Edited::Kept(shared.choice.choose(&scores, &uncut(prompt, shared.first)))
        }))
    }
}

impl Shared {
    /// How much the draft looks at each token.
    fn scores(&self, prompt: &[u32]) -> Result<Arc<Vec<f32>>, MethodError> {
        if let Some(scores) = self.recent.get(prompt) {
            return Ok(scores);
        }
        let mut gaze = Gaze::new(self.choice.window, self.first_layer, prompt.len());
        let mut reader = self.foresight.read(prompt, Some(&mut gaze))?;
        reader.write(self.lookahead, &[], Some(&mut gaze))?;
        let scores = Arc::new(gaze.scores);
        self.recent.keep(prompt.to_vec(), Arc::clone(&scores));
        Ok(scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::cost;
    use crate::methods::importance::{best, max_pool};
    use crate::methods::testing::*;
    use crate::models;
    use crate::nn::decoder::DecoderConfig;

    const SMALL: &str = "spec-pc:capacity=40,window=8,kernel=5,neighbours=4,first=false";

    #[test]
    fn the_model_reads_the_chosen_tokens_as_if_they_were_all() {
        let (target, draft) = (model(2, 512, 1), model(4, 512, 2));
        let ids = prompt(150);
        let (text, statistics) = run(&target, &plan(SMALL, &facts(&target, &draft)).unwrap(), &ids, 20);
        let capture = Capture::of(&draft, &ids);
        let weight = |query: usize, token: usize, layer: usize, head: usize| {
            (query - 142) as f64 / 7.0
                * capture.weights(layer, head, query).get(token).copied().unwrap_or(0.0)
        };
        let score = |token: usize| {
            let places =
                (142..150).flat_map(|query| (0..8).map(move |place| (query, 2 + place / 4, place % 4)));
            places.map(|(query, layer, head)| weight(query, token, layer, head)).fold(0.0, f64::max) as f32
        };
        let scores: Vec<f32> = (0..150).map(score).collect();
        let mut kept: Vec<usize> = (142..150).collect();
        for at in best(&max_pool(&scores, 5), 40) {
            for near in [0, -1, 1, 2].map(|offset| (at as isize + offset).clamp(0, 149) as usize) {
                if !kept.contains(&near) && kept.len() < 40 {
                    kept.push(near);
                }
            }
        }
        kept.sort_unstable();
        let short: Vec<u32> = kept.iter().map(|&at| ids[at]).collect();
        assert_eq!(text, plainly(&target, &short, 20));
        assert_eq!((statistics.original_tokens, statistics.prompt_tokens), (150, 40));
    }

    #[test]
    fn short_prompts_are_left_alone_and_the_draft_does_not_run() {
        // A draft that could not read 40 tokens.
        let (target, draft) = (model(2, 512, 1), model(4, 32, 2));
        let plan = plan(SMALL, &facts(&target, &draft)).unwrap();
        assert_eq!(run(&target, &plan, &prompt(40), 20).0, plainly(&target, &prompt(40), 20));
    }

    #[test]
    fn a_failing_draft_fails_or_is_forgiven() {
        let (target, draft) = (model(2, 512, 1), model(4, 32, 2));
        let facts = facts(&target, &draft);
        let ids = prompt(41);
        let edit = |method: &str| {
            let mut stages = plan(method, &facts).unwrap().begin();
            let whole = 0..ids.len();
            stages.prompt_edits[0].edit(&Prompt { written: None, ids: &ids, editable: &[whole] })
        };
        assert!(edit(SMALL).unwrap_err().to_string().contains("spec-pc"));
        assert_eq!(edit(&format!("{SMALL},on-draft-error=dense")).unwrap(), Edited::Unchanged);
    }

    #[test]
    fn what_may_not_be_cut_stays() {
        let (target, draft) = (model(2, 512, 1), model(4, 512, 2));
        let mut stages = plan(SMALL, &facts(&target, &draft)).unwrap().begin();
        let ids = prompt(150);
        let editable = [3..60, 70..140];
        let edited = stages.prompt_edits[0].edit(&Prompt { written: None, ids: &ids, editable: &editable });
        let Edited::Kept(kept) = edited.unwrap() else { panic!("nothing was cut") };
        let fixed = (0..3).chain(60..70).chain(140..150);
        assert!(fixed.into_iter().all(|at| kept.contains(&at)) && kept.len() == 40, "{kept:?}");
    }

    #[test]
    fn knobs_and_drafts_that_do_not_fit_are_refused() {
        let (target, draft) = (model(2, 512, 1), model(4, 512, 2));
        let fits = facts(&target, &draft);
        let refused = |method: &str, facts: &ModelFacts| plan(method, facts).unwrap_err().to_string();
        assert!(refused("spec-pc:capacity=10", &fits).contains("window of 64"));
        assert!(refused("spec-pc:first-layer=1", &fits).contains("4 layers"));
        let mut other = fits.clone();
        other.companions.draft = Some(draft_model(&draft, 90));
        assert!(refused("spec-pc", &other).contains("90"));
        other.companions.draft = None;
        assert!(matches!(plan("spec-pc", &other), Err(MethodError::MissingDraftModel { .. })));
    }

    fn llama(width: usize, layers: usize, feed_forward: usize) -> DecoderConfig {
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": 128_256, "hidden_size": width, "num_hidden_layers": layers,
            "intermediate_size": feed_forward, "num_attention_heads": 32, "num_key_value_heads": 8,
            "tie_word_embeddings": layers == 16, "max_position_embeddings": 131_072,
        });
        (models::architecture(&config).unwrap().config)(&config).unwrap()
    }

    /// Llama-3.2-1B drafts for Llama-3.1-8B: 16,384 tokens of prompt, 2048 kept.
    #[test]
    fn reading_takes_a_quarter_of_the_work_at_the_papers_sizes() {
        let reading =
            |config: &DecoderConfig, tokens: u64| cost::decoder(config, tokens, tokens / 2, 1).total();
        let (small, large) = (llama(2048, 16, 8192), llama(4096, 32, 14_336));
        let draft = reading(&small, 16_384) as f64;
        let whole = reading(&large, 16_384) as f64;
        let all = draft + reading(&large, 2048) as f64;
        assert!((0.26..0.28).contains(&(all / whole)), "{}", all / whole);
        assert!((0.61..0.64).contains(&(draft / all)), "{}", draft / all);
    }
}
