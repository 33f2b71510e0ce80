//! Early exit (Schuster et al., 2022, arXiv 2207.07061, "CALM"): many tokens are clear long before the last
//! layer. In front of each layer from some layer on, the state is read as if it were the last one. If the
//! model is sure enough there, the token is chosen from it and the layers behind are skipped. They are given
//! the keys and values that they make of that state, so that later tokens find a row of this one in every
//! layer.

use std::sync::Arc;

use crate::methods::{
    Access, Claim, Exit, Fidelity, Halfway, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts,
    ModelKind, Paper, Resource, Room, Spec, Stage, StageKind, Stages, Value,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "early-exit",
    title: "Early exit",
    paper: Paper {
        title: "Confident Adaptive Language Modeling",
        authors: "Tal Schuster, Adam Fisch, Jai Gupta, Mostafa Dehghani, Dara Bahri, Vinh Q. Tran, Yi Tay, \
                  Donald Metzler",
        year: 2022,
        arxiv: "2207.07061",
    },
    room: Room::Depth,
    fidelity: Fidelity::Lossy,
    summary: "Some tokens are clear after a few layers, and a model spends all its layers on them nevertheless. \
              In front of each layer the state is read as if it were the last one; if the model is sure \
              enough, the token is taken from it and the rest of the layers is skipped. They are given keys \
              and values of that state, so that later tokens find what they look for.",
    long: LONG,
    stages: &[StageKind::Exit],
    claims: &[
        Claim { resource: Resource::Depth, access: Access::Own },
        Claim { resource: Resource::KvRows, access: Access::Transform },
    ],
    knobs: &[
        Knob {
            name: "threshold",
            kind: Kind::Float { min: 0.0, max: NEVER },
            default: Value::Float(0.9),
            off: Some(Value::Float(NEVER)),
            help: "how sure the model must be to stop; above 1 it never is",
        },
        Knob {
            name: "measure",
            kind: Kind::Choice { options: &["margin", "top", "state"] },
            default: Value::Choice("margin"),
            off: None,
            help: "what is sure: the lead of the likeliest token over the second, its probability, or the cosine of \
                   the state with that of the layer before",
        },
        Knob {
            name: "first",
            kind: Kind::Int { min: 0, max: 255 },
            default: Value::Int(0),
            off: None,
            help: "layers that every token goes through; 0 takes half of them",
        },
        Knob {
            name: "every",
            kind: Kind::Int { min: 1, max: 64 },
            default: Value::Int(1),
            off: None,
            help: "look only in front of every so many layers from there on",
        },
    ],
    needs: &[],
    models: &[ModelKind::Decoder],
    headlines: &[Headline {
        setting: "T5 with 8 layers, trained with a loss at every layer, three text tasks",
        metric: "speed-up, quality kept",
        baseline: "all layers for every token",
        result: "up to 3x",
    }],
    build,
};

/// A threshold that nothing passes.
const NEVER: f64 = 1.01;

const LONG: &str = "\
## How it works

1. The prompt is read by all layers.
2. In a decode step, in front of each layer from `first` on, the state goes through the model's last norm. `margin` and
   `top` then let the output head speak and turn its scores into probabilities: the first is the paper's softmax
   measure, the lead of the likeliest token over the second, the other the likeliest one's own. `state` is the
   paper's state saturation, the cosine between this state and that of the layer before, and needs no head.
3. Where the measure is `threshold` or more, the step ends: the token is chosen from this state.
4. Each layer that was skipped makes its key and value of this state and keeps them. For the first of them they are
   exactly what a full pass would have made; for those behind they are an approximation.

A draft of several tokens is one step: it ends early only where all its tokens are sure, so drafts seldom do. Requests
that run together end their steps each on its own, and get what they would get alone.

## When it pays

With a model that was trained for it. The output head reads the last layer's state; what it makes of an earlier one of an
ordinary model may be unsure or wrong, so that it ends early seldom or wrongly. The paper trains with a loss at every
layer. `whit train rust-lm-exits` trains a small model so: it decodes 1.5 times as fast for 3 % more perplexity, while an
ordinary one of its size loses 50 %.

Every look with `margin` or `top` costs a pass through the output head. If its vocabulary is large and the layers are
small, as in small models, a look costs more than a layer and `every` should be 2 or more; `state` costs next to
nothing, and is the least reliable. In a batch the time of a step is that of its deepest request, less what the others
leave out.

`whit generate --trace` shows how many layers each step went through.

## What is ours

The paper's third measure, a trained classifier, is left out, and so are its threshold that falls with the token's
number and the calibration that gives a guarantee: the threshold is what you set. `top` and `every` are ours. The paper's
models have an encoder; here the prompt is read by all layers.

Methods that thin out the cache see only the layers that a step went through: a skipped layer may grow a little
beyond its budget until a step reaches it again.";

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let layers = model.layers;
    let first = match knobs.int("first") {
        0 => layers.div_ceil(2),
        first if first < layers => first,
        _ => {
            let most = layers.saturating_sub(1);
            let reason = format!("the model has {layers} layers; give 1 to {most}, or 0 for half of them");
            return Err(knobs.unfit("first", reason));
        }
    };
    let measure = match knobs.choice("measure") {
        "top" => Measure::Top,
        "state" => Measure::State,
        _ => Measure::Margin,
    };
    let threshold = knobs.float("threshold") as f32;
    Ok(Arc::new(EarlyExit { threshold, measure, first, every: knobs.int("every"), layers }))
}

/// What says how sure the model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    /// The probability of the likeliest token less that of the second.
    Margin,
    /// The probability of the likeliest token.
    Top,
    /// The cosine of the state with that of the layer before.
    State,
}

/// The method, built for one model.
#[derive(Clone, Copy, Debug)]
struct EarlyExit {
    threshold: f32,
    measure: Measure,
    first: usize,
    every: usize,
    layers: usize,
}

impl Method for EarlyExit {
    fn begin(&self) -> Stages {
        let state = Leaver { rule: *self, before: Vec::new(), depths: vec![0; self.layers + 1], steps: 0 };
        Stages::from_iter([Stage::Exit(Box::new(state))])
    }

    fn expect(&self) -> String {
        let Self { first, layers, .. } = *self;
        format!(
            "steps of {first} to {layers} layers; a model not trained for it seldom ends early, or wrongly"
        )
    }
}

impl EarlyExit {
    /// Where a step is looked at first.
    fn lowest(&self) -> usize {
        self.first - usize::from(self.measure == Measure::State)
    }

    /// Whether steps may end in front of `layer`.
    fn may_end(&self, layer: usize) -> bool {
        layer >= self.first && (layer - self.first).is_multiple_of(self.every)
    }
}

/// The state of one sequence.
#[derive(Debug)]
struct Leaver {
    rule: EarlyExit,
    /// The states in front of the layer before, where they are wanted. `[tokens, width]`
    before: Vec<f32>,
    /// Steps that ended in front of each layer.
    depths: Vec<usize>,
    steps: usize,
}

impl Exit for Leaver {
    fn looks(&self, layer: usize) -> bool {
        self.rule.may_end(layer) || self.rule.measure == Measure::State && self.rule.may_end(layer + 1)
    }

    fn leaves(&mut self, halfway: &Halfway<'_>) -> bool {
        let [layer, layers] = halfway.layers;
        self.steps += usize::from(layer == self.rule.lowest());
        let sure = self.rule.may_end(layer) && self.sureness(halfway) >= self.rule.threshold;
        self.before.clear();
        if sure {
            self.depths[layer.min(layers)] += 1;
        } else if self.rule.measure == Measure::State {
            self.before.extend_from_slice(halfway.hidden);
        }
        sure
    }

    fn report(&self) -> String {
        let early: usize = self.depths.iter().sum();
        let skipped: usize =
            self.depths.iter().enumerate().map(|(layer, steps)| (self.rule.layers - layer) * steps).sum();
        let steps = self.steps.max(1) as f64;
        format!(
            "{:.2} of {} layers a step, {:.0} % of {} steps ended early",
            self.rule.layers as f64 - skipped as f64 / steps,
            self.rule.layers,
            100.0 * early as f64 / steps,
            self.steps
        )
    }
}

impl Leaver {
    /// How sure the least sure token is.
    fn sureness(&self, halfway: &Halfway<'_>) -> f32 {
        let least = |all: &mut dyn Iterator<Item = f32>| all.fold(f32::INFINITY, f32::min);
        if self.rule.measure == Measure::State {
            let width = halfway.hidden.len() / halfway.tokens;
            let now = halfway.hidden.chunks_exact(width);
            if self.before.len() != halfway.hidden.len() {
                return f32::NEG_INFINITY;
            }
            return least(
                &mut now.zip(self.before.chunks_exact(width)).map(|(now, before)| cosine(now, before)),
            );
        }
        let logits = (halfway.logits)();
        let margin = self.rule.measure == Measure::Margin;
        let lead = |logits: &[f32]| {
            let [top, second] = likeliest(logits);
            if margin { top - second } else { top }
        };
        least(&mut logits.chunks_exact(logits.len() / halfway.tokens).map(lead))
    }
}

/// The probabilities of the two likeliest tokens.
fn likeliest(logits: &[f32]) -> [f32; 2] {
    let mut best = [f32::NEG_INFINITY; 2];
    for &logit in logits {
        if logit > best[0] {
            best = [logit, best[0]];
        } else if logit > best[1] {
            best[1] = logit;
        }
    }
    let sum: f32 = logits.iter().map(|logit| (logit - best[0]).exp()).sum();
    [1.0 / sum, (best[1] - best[0]).exp() / sum]
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)) as f32
}

#[cfg(test)]
#[path = "../tests/early_exit.rs"]
mod tests;
