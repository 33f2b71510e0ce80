//! Structured pruning (LLM-Pruner, Ma et al., 2023, arXiv 2305.11627; whole layers as ShortGPT, Men et al., 2024,
//! arXiv 2403.03853): instead of single weights, whole heads with their rows of q, k, v and columns of o, whole
//! channels of the feed-forward, or whole layers are taken out. What is left is a smaller dense model with a
//! smaller config, faster everywhere without special kernels.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::load::Checkpoint;
use crate::methods::{
    Access, Claim, Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Need,
    Paper, Resource, Room, Spec, Stage, StageKind, Stages, Value, WeightEdit,
};
use crate::models;
use crate::nn::attention::Port;
use crate::shrink::groups::{columns, energies, keep_rows, kept, refit};
use crate::shrink::layers::{influence, prefix, silence, take_layers};
use crate::shrink::pattern::lowest;
use crate::shrink::{Block, Form, Outcome, ShrinkError, Statistics, Subject, Want, Weight};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "structured",
    title: "Structured pruning",
    paper: Paper {
        title: "LLM-Pruner: On the Structural Pruning of Large Language Models",
        authors: "Xinyin Ma, Gongfan Fang, Xinchao Wang",
        year: 2023,
        arxiv: "2305.11627",
    },
    room: Room::Weights,
    fidelity: Fidelity::Lossy,
    summary: "Whole attention heads, channels of the feed-forward or layers are taken out, those that add least to the \
              output on some text, and the matrices around them are fitted anew. What is left is a smaller dense model \
              with a smaller config.json: faster with any program and any number of tokens.",
    long: LONG,
    stages: &[StageKind::WeightEdit],
    claims: &[Claim { resource: Resource::Weights, access: Access::Transform }],
    knobs: &[
        Knob {
            name: "ratio",
            kind: Kind::Ratio,
            default: Value::Float(0.25),
            off: Some(Value::Float(0.0)),
            help: "share of the heads, channels or layers that are taken out",
        },
        Knob {
            name: "what",
            kind: Kind::Choice { options: &["channels", "heads", "width", "layers"] },
            default: Value::Choice("channels"),
            off: None,
            help: "what is taken out; width is heads and channels",
        },
        Knob {
            name: "refit",
            kind: Kind::Flag,
            default: Value::Flag(true),
            off: None,
            help: "fit the matrix that reads the heads or channels again, by least squares",
        },
    ],
    needs: &[Need::Calibration(
        "some text of the kind that the model is for; 10 sequences of 64 tokens in the paper",
    )],
    models: &[ModelKind::Decoder],
    headlines: &[Headline {
        setting: "LLaMA-7B, 20 % of the weights removed, trained again on 50 thousand instructions or a large corpus",
        metric: "mean accuracy of seven tasks without examples",
        baseline: "63.25 (dense)",
        result: "62.36 (5.4 B weights, large corpus)",
    }],
    build,
};

const LONG: &str = "\
## How it works

- **Heads.** A group is a key-value head with all query heads that read it: rows of `q_proj`, `k_proj`, `v_proj`, columns
  of `o_proj`. It scores what it adds to the output on the text: `tr(W_g G_g W_g^T)`, with its columns `W_g` of `o_proj` and
  the second moments `G_g` of its outputs.
- **Channels.** Rows of `gate_proj` and `up_proj` and a column of `down_proj`, with the same score. The number that stays
  is rounded up to a multiple of 32, so that every weight type can hold it.
- **Layers.** A layer scores one minus the mean cosine between the hidden states that enter and leave it, and the lowest
  are taken out; the others are numbered anew.
- **Refit.** The matrix that reads what is left becomes `W G[:, kept] G[kept, kept]^-1`, which makes up for what was taken
  out as far as the rest can.

Every layer loses the same number, as `config.json` has one number for all of them. The folder has the sizes of its own
config, so transformers loads it.

## When it pays

In time always: what is taken out is not computed, in prompts too. In quality it costs much more than zeros in free places
(`sparsegpt`) do. The papers train the model again afterwards; `whit train distill` can do that.

## What is ours

LLM-Pruner scores by gradients (`|w dL/dw|`), spares the first and the last layers, and takes different numbers of groups
from each. Here the score is the energy of the output, which needs no backward pass, and every layer is treated alike;
the refit is an addition.";

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let (ratio, what) = (knobs.float("ratio"), knobs.choice("what"));
    let unfit =
        |reason| Err(MethodError::Unfit { method: SPEC.id, knob: "ratio", value: ratio.to_string(), reason });
    if ratio >= 1.0 {
        return unfit("a ratio of 1 leaves nothing; choose one below 1".into());
    }
    let heads = (model.kv_heads as f64 * ratio) as usize;
    let layers = (model.layers as f64 * ratio).round() as usize;
    if what == "heads" && heads == 0 {
        return unfit(format!(
            "a ratio of {ratio} takes none of {} key-value heads; raise it",
            model.kv_heads
        ));
    }
    if what == "layers" && !(1..model.layers).contains(&layers) {
        return unfit(format!(
            "a ratio of {ratio} takes {layers} of {} layers; choose another",
            model.layers
        ));
    }
    Ok(Arc::new(Structured {
        ratio,
        heads: if matches!(what, "heads" | "width") { heads } else { 0 },
        channels: matches!(what, "channels" | "width"),
        layers: if what == "layers" { layers } else { 0 },
        refit: knobs.flag("refit"),
        gone: BTreeSet::new(),
    }))
}

/// The method, built for one model.
#[derive(Clone, Debug)]
struct Structured {
    ratio: f64,
    /// Key-value heads to take out of each layer.
    heads: usize,
    channels: bool,
    /// Layers to take out.
    layers: usize,
    refit: bool,
    /// Those layers.
    gone: BTreeSet<usize>,
}

impl Method for Structured {
    fn begin(&self) -> Stages {
        Stages::from_iter([Stage::WeightEdit(Box::new(self.clone()))])
    }

    fn expect(&self) -> String {
        let parts = [
            (self.heads > 0, format!("{} key-value heads less in each layer", self.heads)),
            (self.channels, format!("{:.0} % of the feed-forward's channels less", 100.0 * self.ratio)),
            (self.layers > 0, format!("{} layers less", self.layers)),
        ];
        let parts: Vec<_> = parts.into_iter().filter(|(is, _)| *is).map(|(_, text)| text).collect();
        parts.join(", ")
    }
}

impl WeightEdit for Structured {
    fn survey(&mut self, subject: &Subject<'_>) -> Result<(), ShrinkError> {
        if self.channels && subject.config.experts.is_some() {
            return Err(ShrinkError::unfit(
                "mlp",
                "channels of a mixture of experts cannot be taken out; use what=heads",
            ));
        }
        if self.layers > 0 {
            let influence = influence(subject)?;
            self.gone = lowest(&influence, 0..influence.len(), self.layers).into_iter().collect();
        }
        Ok(())
    }

    fn edit(&mut self, block: &mut Block<'_>) -> Result<(), ShrinkError> {
        if self.gone.contains(&block.index) {
            // A layer that adds nothing, until `finish` takes it out.
            return silence(block);
        }
        if self.heads > 0 {
            self.take_heads(block)?;
        }
        if self.channels {
            self.take_channels(block)?;
        }
        Ok(())
    }

    fn finish(&mut self, outcome: &mut Outcome) -> Result<(), ShrinkError> {
        if !self.gone.is_empty() {
            let list = self.gone.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
            outcome.report.notes.push(format!("layers taken out: {list}"));
            outcome
                .report
                .lines
                .retain(|line| !self.gone.iter().any(|gone| line.tensor.starts_with(&prefix(*gone))));
        }
        take_layers(outcome, &self.gone)?;
        self.write_config(outcome)
    }
}

impl Structured {
    fn take_heads(&self, block: &mut Block<'_>) -> Result<(), ShrinkError> {
        let (dim, kv_heads, heads) = (block.config.head_dim, block.config.kv_heads, block.config.heads);
        let shared = heads / kv_heads;
        let seen = block.inputs(Port::Output, Want::Gram)?;
        let o_proj = "self_attn.o_proj.weight";
        let energies = energies(block.get(o_proj)?, &seen, shared * dim);
        let kept = kept(&energies, kv_heads - self.heads);
        let spans =
            |size: usize| -> Vec<usize> { kept.iter().flat_map(|&at| at * size..(at + 1) * size).collect() };
        let (keys, queries) = (spans(dim), spans(shared * dim));
        for name in ["k_proj", "v_proj"] {
            keep_rows(block, &format!("self_attn.{name}"), &keys)?;
        }
        keep_rows(block, "self_attn.q_proj", &queries)?;
        self.keep_columns(block, o_proj, &queries, &seen)?;
        block.config.kv_heads = kept.len();
        block.config.heads = kept.len() * shared;
        Ok(())
    }

    fn take_channels(&self, block: &mut Block<'_>) -> Result<(), ShrinkError> {
        let seen = block.inputs(Port::Down, Want::Gram)?;
        let down = "mlp.down_proj.weight";
        let channels = block.config.feed_forward;
        let stay = (channels as f64 * (1.0 - self.ratio)).ceil() as usize;
        let stay = stay.next_multiple_of(32).min(channels);
        let kept = kept(&energies(block.get(down)?, &seen, 1), stay);
        for name in ["mlp.gate_proj", "mlp.up_proj"] {
            keep_rows(block, name, &kept)?;
        }
        self.keep_columns(block, down, &kept, &seen)?;
        block.config.feed_forward = stay;
        Ok(())
    }

    /// Keeps the columns `kept` of a matrix, fitted to what the whole matrix gave.
    fn keep_columns(
        &self,
        block: &mut Block<'_>,
        name: &str,
        kept: &[usize],
        seen: &Statistics,
    ) -> Result<(), ShrinkError> {
        let weight = block.get(name)?;
        let (inputs, outputs) = (weight.inputs(), weight.outputs());
        let fitted = match self.refit {
            true => refit(&weight.values, inputs, kept, seen),
            false => None,
        };
        let plain = || columns(&weight.values, inputs, kept);
        let values = fitted.unwrap_or_else(plain);
        block.set(name, Weight { shape: vec![outputs, kept.len()], values, form: Form::Dense });
        Ok(())
    }

    /// Writes the new sizes into `config.json`.
    fn write_config(&self, outcome: &mut Outcome) -> Result<(), ShrinkError> {
        let size = |name: &str, axis: usize| {
            Some(outcome.weights.info(&format!("{}{name}", prefix(0)))?.shape[axis])
        };
        let before = (models::architecture(&outcome.config)?.config)(&outcome.config);
        let before = before.map_err(models::ModelError::from)?;
        if self.heads > 0 {
            outcome.config["head_dim"] = before.head_dim.into();
            outcome.config["num_attention_heads"] =
                (before.heads / before.kv_heads * (before.kv_heads - self.heads)).into();
            outcome.config["num_key_value_heads"] = (before.kv_heads - self.heads).into();
        }
        if let Some(channels) = size("mlp.down_proj.weight", 1).filter(|_| self.channels) {
            outcome.config["intermediate_size"] = channels.into();
        }
        if !self.gone.is_empty() {
            outcome.config["num_hidden_layers"] = (before.layers - self.gone.len()).into();
            if let Some(Json::Array(types)) = outcome.config.get_mut("layer_types") {
                let mut index = 0..;
                types.retain(|_| index.next().is_none_or(|at| !self.gone.contains(&at)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Dtype, Options, open};
    use crate::shrink::testing::{calibration, logits, model, network, shrunk};
    use crate::shrink::write;

    #[test]
    fn a_smaller_model_loads_by_its_own_config() {
        let (place, files) = (tempfile::tempdir().unwrap(), model(3));
        for (what, heads, channels, layers) in
            [("channels", 4, 64, 2), ("heads", 2, 96, 2), ("width", 2, 64, 2), ("layers", 4, 96, 1)]
        {
            let outcome = shrunk(&files, &format!("structured:ratio=0.5,what={what}"), 3).unwrap();
            let folder = place.path().join(what);
            write::folder(&files, &outcome, &folder, write::Numbers { plain: Dtype::F32, packing: None })
                .unwrap();
            let opened = open(folder.to_str().unwrap(), &Options::default()).unwrap();
            let network = network(&opened.config, opened.weights.as_ref());
            let config = network.config();
            assert_eq!(
                (config.heads, config.feed_forward, config.layers),
                (heads, channels, layers),
                "{what}"
            );
            assert!(logits(&network, &calibration(1).sequences[0]).iter().all(|x| x.is_finite()));
        }
    }

    #[test]
    fn a_layer_that_does_nothing_is_the_one_that_goes_and_nothing_is_lost() {
        #[derive(Debug)]
        struct Quiet;
        impl WeightEdit for Quiet {
            fn edit(&mut self, block: &mut Block<'_>) -> Result<(), ShrinkError> {
                if block.index == 0 { silence(block) } else { Ok(()) }
            }
        }
        let files = crate::shrink::testing::edited(model(4), &mut Quiet);
        let outcome = shrunk(&files, "structured:ratio=0.5,what=layers", 3).unwrap();
        assert_eq!(outcome.report.notes, ["layers taken out: 0"]);
        let ids = &calibration(1).sequences[0];
        let [before, after] =
            [(&files.config, files.weights.as_ref()), (&outcome.config, &outcome.weights as &dyn Checkpoint)]
                .map(|(config, weights)| logits(&network(config, weights), ids));
        assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-4));
    }

    #[test]
    fn the_fit_helps_and_what_cannot_be_taken_out_is_refused() {
        let files = model(5);
        let error = |with: &str| shrunk(&files, with, 6).unwrap().report.block_errors.iter().sum::<f64>();
        assert!(error("structured:ratio=0.4") < error("structured:ratio=0.4,refit=false"));
        for with in ["structured:what=heads", "structured:ratio=0.1,what=layers", "structured:ratio=1"] {
            assert!(matches!(shrunk(&files, with, 3), Err(ShrinkError::Method(_))), "{with}");
        }
        assert!(shrunk(&files, "structured:what=layers,ratio=0.5", 0).is_err());
    }
}
