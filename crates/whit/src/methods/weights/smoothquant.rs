//! SmoothQuant (Xiao et al., 2022, arXiv 2211.10438): activations of language models have a few inputs that
//! are far larger than the rest, which ruin 8-bit activations, while weights are easy to quantise. Each input
//! of a linear layer is divided by a factor and its weights are multiplied with it, which changes nothing
//! but moves the difficulty from activations to weights. The division is folded into the norm before
//! the layer, so the changed model costs nothing; then 8-bit weights and activations lose little.

use std::sync::Arc;

use crate::methods::{
    Access, Claim, Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Need,
    Paper, Resource, Room, Spec, Stage, StageKind, Stages, Value, WeightEdit,
};
use crate::nn::attention::Port;
use crate::shrink::{Block, Outcome, ShrinkError, Want, scaling};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "smoothquant",
    title: "SmoothQuant",
    paper: Paper {
        title: "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
        authors: "Guangxuan Xiao, Ji Lin, Mickael Seznec, Hao Wu, Julien Demouth, Song Han",
        year: 2022,
        arxiv: "2211.10438",
    },
    room: Room::Weights,
    fidelity: Fidelity::Bounded,
    summary: "A few inputs of each linear layer are far larger than the rest and ruin 8-bit activations. Every input \
              is divided by a factor and its weights are multiplied with it; the division is folded into the norm \
              before the layer, so that the model computes the same at the same cost. Then 8-bit weights and \
              activations (`--dtype int8`) lose little.",
    long: LONG,
    stages: &[StageKind::WeightEdit],
    claims: &[Claim { resource: Resource::Weights, access: Access::Transform }],
    knobs: &[
        Knob {
            name: "smooth",
            kind: Kind::Flag,
            default: Value::Flag(true),
            off: Some(Value::Flag(false)),
            help: "false leaves the weights as they are",
        },
        Knob {
            name: "alpha",
            kind: Kind::Ratio,
            default: Value::Float(0.5),
            off: None,
            help: "how much of the difficulty moves to the weights; the paper: 0.5 for OPT, 0.85 for Llama 2",
        },
    ],
    needs: &[Need::Calibration("512 sequences of 512 tokens in the paper; 32 do")],
    models: &[ModelKind::Decoder],
    headlines: &[
        Headline {
            setting: "Llama-2-7B, WikiText-2, 8-bit weights and activations, alpha 0.85",
            metric: "perplexity",
            baseline: "5.474 (fp16)",
            result: "5.515",
        },
        Headline {
            setting: "OPT-class models, A100, 8-bit weights and activations",
            metric: "speed-up; memory",
            baseline: "1x (fp16)",
            result: "up to 1.56x; half",
        },
    ],
    build,
};

const LONG: &str = "\
## How it works

For the layers behind each of a block's two norms: `s_j = max|x_j|^alpha / max|W_j|^(1 - alpha)`, at least 1e-5, where
the first maximum is over the calibration text and the second over the rows of all layers that share the input. The
norm's gain (and bias) is divided by `s`, the layers' columns are multiplied with it. In full precision the model
computes the same as before, up to rounding.

Run the result with `--dtype int8`: weights have 8 bits with one scale for each output, activations 8 bits with one
scale for each token, sums are 32-bit integers. The projections behind attention and feed-forward are not smoothed, as
in the paper.

## When it pays

When the model runs in `int8` and its activations have outliers, as models of billions of parameters do. Small models
often have none; then it changes little. With other types than `int8` it gains nothing: they scale activations in
groups of 32.";

fn build(knobs: &Knobs, _: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    Ok(Arc::new(SmoothQuant { alpha: knobs.float("alpha") }))
}

/// The method, built for one model.
#[derive(Clone, Debug)]
struct SmoothQuant {
    alpha: f64,
}

impl Method for SmoothQuant {
    fn begin(&self) -> Stages {
        Stages::from_iter([Stage::WeightEdit(Box::new(self.clone()))])
    }

    fn expect(&self) -> String {
        "the same outputs in full precision, better ones with --dtype int8".into()
    }
}

impl WeightEdit for SmoothQuant {
    fn edit(&mut self, block: &mut Block<'_>) -> Result<(), ShrinkError> {
        for port in [Port::Attention, Port::FeedForward] {
            let largest = block.inputs(port, Want::Moments)?.max_abs;
            let weights = scaling::column_maxima(block, port)?;
            let scales: Vec<f32> = largest.iter().zip(weights).map(|(&x, w)| self.factor(x, w)).collect();
            scaling::fold(block, port, &scales)?;
        }
        Ok(())
    }

    fn finish(&mut self, outcome: &mut Outcome) -> Result<(), ShrinkError> {
        outcome.report.notes.push("smoothed for 8-bit activations: run it with --dtype int8".into());
        Ok(())
    }
}

impl SmoothQuant {
    fn factor(&self, input: f32, weight: f32) -> f32 {
        let [input, weight] = [input, weight].map(|largest| f64::from(largest.max(1e-5)));
        (input.powf(self.alpha) / weight.powf(1.0 - self.alpha)).max(1e-5) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Checkpoint;
    use crate::models;
    use crate::nn::vars::{Precision, Storage};
    use crate::shrink::testing::{calibration, logits, model_with_outliers, network, shrunk};
    use whit_kernels::linear::WeightType;

    #[test]
    fn factors_worked_by_hand() {
        let half = SmoothQuant { alpha: 0.5 };
        assert_eq!(half.factor(16.0, 0.25), 8.0);
        assert_eq!(SmoothQuant { alpha: 1.0 }.factor(16.0, 0.25), 16.0);
        assert_eq!(SmoothQuant { alpha: 0.0 }.factor(16.0, 0.25), 4.0);
        assert!(half.factor(0.0, 0.0).is_finite());
    }

    #[test]
    fn folding_leaves_the_logits_as_they_were() {
        let files = model_with_outliers(1);
        let ids = &calibration(1).sequences[0];
        let before = logits(&network(&files.config, files.weights.as_ref()), ids);
        for alpha in ["0", "0.5", "0.85"] {
            let outcome = shrunk(&files, &format!("smoothquant:alpha={alpha}"), 4).unwrap();
            assert_eq!(outcome.weights.changed().count(), 14, "two norms and five matrices a block");
            let after = logits(&network(&files.config, &outcome.weights), ids);
            let largest = before.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-4 * largest.max(1.0)));
        }
    }

    #[test]
    fn eight_bit_activations_with_outliers_get_far_better() {
        let files = model_with_outliers(2);
        let ids = &calibration(1).sequences[0];
        let exact = logits(&network(&files.config, files.weights.as_ref()), ids);
        let error = |weights: &dyn Checkpoint| {
            let int8 = Storage::Packed(Precision::Fixed(WeightType::Int8));
            let model = models::decoder(&files.config, weights, &int8, &|_| {}).unwrap();
            logits(&model, ids).iter().zip(&exact).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        };
        let smoothed = shrunk(&files, "smoothquant", 4).unwrap();
        let (naive, smooth) = (error(files.weights.as_ref()), error(&smoothed.weights));
        assert!(smooth < 0.1 * naive, "{smooth} {naive}");
    }
}
