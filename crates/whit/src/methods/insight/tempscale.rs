//! TempScale (Zhou et al., 2024, arXiv 2410.24200): long texts get embeddings that are all alike. Attention with a
//! softmax is a low-pass filter over the tokens: it keeps their mean and damps the rest, the more, the more tokens
//! there are. After some layers little is left of a long text but its mean, and it no longer matches short ones.
//! Scores divided by a temperature below 1 make the rows of attention sharper, damp less, and keep long texts apart.
//! Nothing is trained and nothing costs more.

use std::sync::Arc;

use crate::methods::{
    Access, AttnScale, Claim, Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts,
    ModelKind, Paper, Resource, Room, Spec, Stage, StageKind, Stages, Value,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "tempscale",
    title: "TempScale",
    paper: Paper {
        title: "Length-Induced Embedding Collapse in PLM-based Models",
        authors: "Yuqi Zhou, Sunhao Dai, Zhanshuo Cao, Xiao Zhang, Jun Xu",
        year: 2024,
        arxiv: "2410.24200",
    },
    room: Room::Insight,
    fidelity: Fidelity::Lossy,
    summary: "The scores of a text encoder's attention are divided by a temperature below 1. Attention damps whatever \
              is not the mean of a text, and long texts more than short ones, until their embeddings are all alike; a \
              lower temperature damps less. Nothing is trained and nothing costs more.",
    long: LONG,
    stages: &[StageKind::AttnScale],
    claims: &[Claim { resource: Resource::AttentionPattern, access: Access::Transform }],
    knobs: KNOBS,
    needs: &[],
    models: &[ModelKind::Encoder],
    headlines: &[
        Headline {
            setting: "MTEB, embedders of BERT's and T5's kind, best temperature for each",
            metric: "average score",
            baseline: "temperature 1",
            result: "up to 0.94 % better",
        },
        Headline {
            setting: "LongEmbed, the same",
            metric: "average score",
            baseline: "temperature 1",
            result: "up to 1.10 % better",
        },
    ],
    build,
};

const KNOBS: &[Knob] = &[
    Knob {
        name: "tau",
        kind: Kind::Float { min: 0.05, max: 2.0 },
        default: Value::Float(0.9),
        off: Some(Value::Float(1.0)),
        help: "what scores are divided by before the softmax",
    },
    Knob {
        name: "layers",
        kind: Kind::Text { what: "numbers of layers from 1, with | between them" },
        default: Value::Text(std::borrow::Cow::Borrowed("")),
        off: None,
        help: "where; empty for all layers",
    },
];

const LONG: &str = "\
## How it works

In every layer the whole score of a query and a key is divided by `tau` before the softmax: `q k / sqrt(d)`, and with it
the relative bias where a model has one (T5). Masks stay what they are, pooling and normalisation too. The factor goes into
the scale that attention has anyway, so nothing is computed in addition.

## When it pays

The paper's gains are a fraction of a point, and on long texts if anywhere. The range of the cosines changes too: long texts
that all seemed alike come apart, which matters where something asks whether a cosine is above a threshold. A very low
temperature makes attention look at single tokens.

Embeddings made at different temperatures cannot be compared: embed queries and texts with the same `tau`, and embed an
index anew when it changes. `whit embed --search` does both in one run; keep the setting beside vectors that you store.

`whit bench collapse --model DIR` measures it on texts of your own: how alike texts are by length, and how often a part of
a text finds its text, at each of several temperatures. There is no setting that is best for all models.

## What is ours

`layers` is an extension; the paper changes all of them. The authors' code finds the layers to change by their names and
leaves a model that it does not know as it is, without a word. Here a model without such attention is refused.

The paper bounds how much attention damps by a formula. It is not used here, for random attention breaks the form in which
we know it; what is measured is the damping itself.";

#[derive(Clone, Debug)]
struct TempScale {
    temperatures: Arc<[f32]>,
}

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let tau = knobs.float("tau") as f32;
    let listed = layers(knobs, model.layers)?;
    let chosen = |layer: usize| listed.is_empty() || listed.contains(&layer);
    let temperatures = (1..=model.layers).map(|layer| if chosen(layer) { tau } else { 1.0 }).collect();
    Ok(Arc::new(TempScale { temperatures }))
}

fn layers(knobs: &Knobs, count: usize) -> Result<Vec<usize>, MethodError> {
    let parts = knobs.text("layers").split('|').map(str::trim).filter(|part| !part.is_empty());
    let number = |part: &str| match part.parse() {
        Ok(layer) if (1..=count).contains(&layer) => Ok(layer),
        _ => Err(knobs.unfit("layers", format!("there is no layer `{part}`; the model has 1 to {count}"))),
    };
    parts.map(number).collect()
}

impl Method for TempScale {
    fn begin(&self) -> Stages {
        let state: Box<dyn AttnScale> = Box::new(self.clone());
        Stages::from_iter([Stage::AttnScale(state)])
    }

    fn expect(&self) -> String {
        let changed: Vec<f32> = self.temperatures.iter().copied().filter(|tau| *tau != 1.0).collect();
        let tau = changed.first().copied().unwrap_or(1.0);
        format!(
            "scores divided by {tau} in {} of {} layers, at no cost",
            changed.len(),
            self.temperatures.len()
        )
    }
}

impl AttnScale for TempScale {
    fn temperature(&self, layer: usize) -> f32 {
        self.temperatures.get(layer).copied().unwrap_or(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::{Plan, Selection};

    fn plan(text: &str, kind: ModelKind) -> Result<Plan, MethodError> {
        Plan::new(&Selection::parse(&[text])?, &ModelFacts { kind, ..ModelFacts::example() })
    }

    #[test]
    fn chosen_layers_get_the_temperature() {
        let scale = plan("tempscale:tau=0.5,layers=1|3", ModelKind::Encoder).unwrap().begin().scale.unwrap();
        assert_eq!([0, 1, 2, 3].map(|layer| scale.temperature(layer)), [0.5, 1.0, 0.5, 1.0]);
        assert!(plan("tempscale:tau=1", ModelKind::Encoder).unwrap().is_plain());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, kind, part) in [
            ("tempscale:tau=0", ModelKind::Encoder, "tau"),
            ("tempscale:tau=-1", ModelKind::Encoder, "tau"),
            ("tempscale:tau=nan", ModelKind::Encoder, "tau"),
            ("tempscale:layers=5", ModelKind::Encoder, "1 to 4"),
            ("tempscale:layers=x", ModelKind::Encoder, "`x`"),
            ("tempscale", ModelKind::Decoder, "works on: encoder"),
            ("tempscale", ModelKind::Vision, "works on: encoder"),
        ] {
            let error = plan(text, kind).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
