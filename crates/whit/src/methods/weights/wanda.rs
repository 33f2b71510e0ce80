//! Wanda (Sun et al., 2023, arXiv 2306.11695): a weight matters as much as what it adds to the output,
//! and that depends on how large its input usually is. So weights are scored by their magnitude times the
//! norm of their input over some text, and in every row those with the lowest scores become zero. No
//! weight is changed otherwise; one forward pass is all that it takes.

use std::sync::Arc;

use crate::methods::{
    Access, Claim, Fidelity, Headline, Knobs, Method, MethodError, ModelFacts, ModelKind, Need, Paper,
    Resource, Room, Spec, Stage, StageKind, Stages, WeightEdit,
};
use crate::nn::attention::Port;
use crate::shrink::pattern::{PATTERN, Pattern, RATIO, Scope, prune_matrix};
use crate::shrink::{Block, ShrinkError, Want};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "wanda",
    title: "Wanda",
    paper: Paper {
        title: "A Simple and Effective Pruning Approach for Large Language Models",
        authors: "Mingjie Sun, Zhuang Liu, Anna Bair, J. Zico Kolter",
        year: 2023,
        arxiv: "2306.11695",
    },
    room: Room::Weights,
    fidelity: Fidelity::Lossy,
    summary: "Weights are scored by their magnitude times the norm of their input over some text. In every row those with \
              the lowest scores become zero, or two of every four neighbours. The other weights stay as they are, and one \
              forward pass over the text is all that it takes.",
    long: LONG,
    stages: &[StageKind::WeightEdit],
    claims: &[Claim { resource: Resource::Weights, access: Access::Transform }],
    knobs: &[RATIO, PATTERN],
    needs: &[Need::Calibration("some text of the kind that the model is for; 128 sequences in the paper")],
    models: &[ModelKind::Decoder],
    headlines: &[
        Headline {
            setting: "Llama-2-7B, WikiText-2, 50 % zeros",
            metric: "perplexity",
            baseline: "5.12 (dense), 14.89 (magnitude)",
            result: "6.42",
        },
        Headline {
            setting: "Llama-2-7B, WikiText-2, 4:8 / 2:4",
            metric: "perplexity",
            baseline: "16.48 / 54.59 (magnitude)",
            result: "7.97 / 11.02",
        },
    ],
    build,
};

const LONG: &str = "\
## How it works

1. The text goes through the model block by block; for each linear layer the norm of every input `j` over all tokens is
   summed up: `||x_j||`.
2. Weight `w_ij` scores `|w_ij| ||x_j||`. In each row the `ratio` lowest become zero; with `2:4` and `4:8` half of every
   group of neighbours.
3. The next layers see what the pruned ones before them give.

## When it pays

To half of zeros it loses little and costs seconds. See `magnitude` for what zeros are good for: less memory and faster
decoding of one token at a time, no faster prompts. `sparsegpt` also corrects the weights that stay, which helps most with 2:4.

## What is ours

Nothing of the method. Rows for which the share is no whole number lose the next smaller number of weights, as in the
authors' code.";

fn build(knobs: &Knobs, _: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    Ok(Arc::new(Wanda { pattern: Pattern::of(knobs)? }))
}

/// The method, built for one model.
#[derive(Clone, Debug)]
struct Wanda {
    pattern: Pattern,
}

impl Method for Wanda {
    fn begin(&self) -> Stages {
        Stages::from_iter([Stage::WeightEdit(Box::new(self.clone()))])
    }

    fn expect(&self) -> String {
        self.pattern.expect() + "; one pass over the calibration text"
    }
}

impl WeightEdit for Wanda {
    fn edit(&mut self, block: &mut Block<'_>) -> Result<(), ShrinkError> {
        for port in Port::ALL {
            let squares = block.inputs(port, Want::Moments)?.squares;
            let score = |weight: f32, input: usize| f64::from(weight.abs()) * squares[input].sqrt();
            let names = block.matrices(port);
            names.iter().try_for_each(|name| prune_matrix(block, name, self.pattern, Scope::Row, score))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::load::Checkpoint;
    use crate::shrink::pattern::{Pattern, Scope, prune};
    use crate::shrink::testing::{model, shrunk};

    #[test]
    fn inputs_decide_where_magnitudes_do_not() {
        let mut weight = [1.0f32, -1.5, 2.0, 3.0];
        let norms = [9.0f64, 1.0, 0.1, 2.0];
        prune(&mut weight, 4, Pattern::Free(0.5), Scope::Row, |w, input| f64::from(w.abs()) * norms[input]);
        assert_eq!(weight, [1.0, 0.0, 0.0, 3.0]);
    }

    #[test]
    fn equal_norms_give_the_mask_of_magnitudes() {
        let weight: Vec<f32> = (0..96).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect();
        for pattern in [Pattern::Free(0.5), Pattern::Groups { zeros: 2, of: 4 }] {
            let [mut one, mut other] = [weight.clone(), weight.clone()];
            prune(&mut one, 24, pattern, Scope::Row, |w, _| f64::from(w.abs()));
            prune(&mut other, 24, pattern, Scope::Row, |w, _| f64::from(w.abs()) * 3.7);
            assert_eq!(one, other);
        }
    }

    #[test]
    fn every_row_loses_exactly_its_share() {
        let outcome = shrunk(&model(5), "wanda:ratio=0.4", 3).unwrap();
        assert_eq!((outcome.report.lines.len(), outcome.report.block_errors.len()), (14, 2));
        for line in &outcome.report.lines {
            let tensor = outcome.weights.read(&line.tensor).unwrap();
            let inputs = tensor.shape[1];
            for row in tensor.to_f32(&line.tensor).unwrap().chunks(inputs) {
                let zeros = row.iter().filter(|&&w| w == 0.0).count();
                assert_eq!(zeros, (inputs as f64 * 0.4) as usize, "{}", line.tensor);
            }
        }
    }

    #[test]
    fn without_text_it_is_refused() {
        let refused = shrunk(&model(5), "wanda", 0).unwrap_err();
        assert!(refused.to_string().contains("calibrat") && refused.hint().is_some(), "{refused}");
    }
}
