//! Magnitude pruning (Han et al., 2015, arXiv 1506.02626): weights near zero matter least, so the
//! smallest of a matrix become zero. No data are needed. It is what the cleverer methods are compared
//! with. Whit keeps only the other weights when it loads the model, where that is faster.

use std::sync::Arc;

use crate::methods::{
    Access, Claim, Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Paper,
    Resource, Room, Spec, Stage, StageKind, Stages, Value, WeightEdit,
};
use crate::shrink::pattern::{PATTERN, Pattern, RATIO, Scope, prune_matrix};
use crate::shrink::{Block, ShrinkError};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "magnitude",
    title: "Magnitude pruning",
    paper: Paper {
        title: "Learning both Weights and Connections for Efficient Neural Networks",
        authors: "Song Han, Jeff Pool, John Tran, William J. Dally",
        year: 2015,
        arxiv: "1506.02626",
    },
    room: Room::Weights,
    fidelity: Fidelity::Lossy,
    summary: "The weights of the linear layers with the smallest magnitudes become zero: a share of each matrix, or two \
              of every four neighbours. It takes seconds and needs no data; it is what Wanda and SparseGPT are compared \
              with.",
    long: LONG,
    stages: &[StageKind::WeightEdit],
    claims: &[Claim { resource: Resource::Weights, access: Access::Transform }],
    knobs: &[
        RATIO,
        PATTERN,
        Knob {
            name: "scope",
            kind: Kind::Choice { options: &["matrix", "row"] },
            default: Value::Choice("matrix"),
            off: None,
            help: "what competes for the zeros of the free pattern: the weights of a matrix, or of a row",
        },
    ],
    needs: &[],
    models: &[ModelKind::Decoder],
    headlines: &[Headline {
        setting: "Llama-2-7B, WikiText-2, 50 % zeros / 2:4 (as the Wanda paper reports)",
        metric: "perplexity",
        baseline: "5.12 (dense)",
        result: "14.89 / 54.59",
    }],
    build,
};

const LONG: &str = "\
## How it works

The free pattern zeroes the `ratio` smallest magnitudes of each matrix (`scope=matrix`) or of each row (`scope=row`);
`2:4` the two smallest of every four neighbouring inputs, `4:8` the four smallest of eight. Embeddings, norms and the
output head stay as they are.

## When it pays

Where there is no text to calibrate with: `sparsegpt` loses less, and in the papers' large models `wanda` does. A pruned folder has the
size and the tensors of the dense one and loads anywhere. Whit sees the zeros when it loads f32, bf16 or int8 weights:
2:4 then takes little more than half the memory, and free zeros are left out from 40 % on, with AVX-512, in f32 and bf16.
Fewer bytes can pay where one token at a time is decoded; reading a long prompt is not faster.

## What is ours

`scope`, and rows for which the share is no whole number lose the next smaller number of weights.";

fn build(knobs: &Knobs, _: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let scope = if knobs.choice("scope") == "row" { Scope::Row } else { Scope::Matrix };
    Ok(Arc::new(Magnitude { pattern: Pattern::of(knobs)?, scope }))
}

/// The method, built for one model.
#[derive(Clone, Debug)]
struct Magnitude {
    pattern: Pattern,
    scope: Scope,
}

impl Method for Magnitude {
    fn begin(&self) -> Stages {
        Stages::from_iter([Stage::WeightEdit(Box::new(self.clone()))])
    }

    fn expect(&self) -> String {
        self.pattern.expect() + "; no data needed"
    }
}

impl WeightEdit for Magnitude {
    fn edit(&mut self, block: &mut Block<'_>) -> Result<(), ShrinkError> {
        let magnitude = |weight: f32, _: usize| f64::from(weight.abs());
        let names = block.all_matrices();
        names.iter().try_for_each(|name| prune_matrix(block, name, self.pattern, self.scope, magnitude))
    }
}

#[cfg(test)]
mod tests {
    use crate::load::Checkpoint;
    use crate::shrink::Outcome;
    use crate::shrink::testing::{model, shrunk};

    fn matrix(outcome: &Outcome, name: &str) -> Vec<f32> {
        outcome.weights.read(name).unwrap().to_f32(name).unwrap()
    }

    #[test]
    fn the_smallest_of_each_matrix_are_zero_and_the_others_as_they_were() {
        let files = model(3);
        let name = "model.layers.1.mlp.up_proj.weight";
        let before = files.weights.read(name).unwrap().to_f32(name).unwrap();
        let after = matrix(&shrunk(&files, "magnitude:ratio=0.3", 0).unwrap(), name);
        let zeros = after.iter().filter(|&&w| w == 0.0).count();
        assert_eq!(zeros, (before.len() as f64 * 0.3) as usize);
        let pruned = before.iter().zip(&after).filter(|(_, after)| **after == 0.0);
        let largest = pruned.fold(0.0f32, |most, (before, _)| most.max(before.abs()));
        for (before, after) in before.iter().zip(&after).filter(|(_, after)| **after != 0.0) {
            assert!(before == after && after.abs() >= largest);
        }
    }

    #[test]
    fn every_group_of_four_has_two_zeros() {
        let outcome = shrunk(&model(3), "magnitude:pattern=2:4", 0).unwrap();
        assert_eq!(outcome.report.lines.len(), 14);
        for line in &outcome.report.lines {
            let weights = matrix(&outcome, &line.tensor);
            assert!(weights.chunks(4).all(|four| four.iter().filter(|&&w| w == 0.0).count() == 2));
            assert_eq!((line.form.as_str(), line.bits), ("2:4 of bf16", 9.0));
        }
    }

    #[test]
    fn a_ratio_that_leaves_nothing_is_refused() {
        let refused = shrunk(&model(3), "magnitude:ratio=1", 0).unwrap_err().to_string();
        assert!(refused.contains("magnitude") && refused.contains("ratio"), "{refused}");
        assert!(shrunk(&model(3), "magnitude:ratio=1.5", 0).is_err());
    }
}
