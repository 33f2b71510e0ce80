//! Round to nearest (the baseline of GPTQ, arXiv 2210.17323, and of every paper on the quantisation of
//! weights): the weights of a linear layer become integers of a few bits. Neighbouring weights of a row
//! share a scale and a zero, which are set so that the levels just reach the group's smallest and
//! largest weight; each weight takes the level nearest to it. No data are needed.

use std::sync::Arc;

use crate::methods::{
    Access, Claim, Fidelity, Headline, Knobs, Method, MethodError, ModelFacts, ModelKind, Paper, Resource,
    Room, Spec, Stage, StageKind, Stages, WeightEdit,
};
use crate::shrink::grid::{BITS, GROUP, Grid, SEARCH, SYMMETRIC};
use crate::shrink::{Block, ShrinkError};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "rtn",
    title: "Round to nearest",
    paper: Paper {
        title: "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
        authors: "Elias Frantar, Saleh Ashkboos, Torsten Hoefler, Dan Alistarh",
        year: 2022,
        arxiv: "2210.17323",
    },
    room: Room::Weights,
    fidelity: Fidelity::Lossy,
    summary: "The weights of the linear layers become integers of 2 to 8 bits, each rounded to the nearest level of \
              its group. A group of neighbouring weights shares a scale and a zero that just reach its smallest and \
              largest weight. It takes seconds and needs no data; it is what the cleverer methods are compared with.",
    long: LONG,
    stages: &[StageKind::WeightEdit],
    claims: &[
        Claim { resource: Resource::Weights, access: Access::Transform },
        Claim { resource: Resource::WeightBits, access: Access::Own },
    ],
    knobs: &[BITS, GROUP, SYMMETRIC, SEARCH],
    needs: &[],
    models: &[ModelKind::Decoder],
    headlines: &[Headline {
        setting: "LLaMA-7B, WikiText-2, whole rows, 4 / 3 bits",
        metric: "perplexity",
        baseline: "5.68 (fp16)",
        result: "6.29 / 25.54",
    }],
    build,
};

const LONG: &str = "\
## How it works

For a group of weights `w` and `b` bits: `lo = min(0, min w)`, `hi = max(0, max w)`, `scale = (hi - lo) / (2^b - 1)`,
`zero = round(-lo / scale)`, and each weight becomes `scale * (clamp(round(w / scale) + zero, 0, 2^b - 1) - zero)`.
`symmetric` puts the zero in the middle and takes `scale = 2 max|w| / (2^b - 1)`. `search` tries 80 smaller ranges for
each group and keeps the one with the least error to the power 2.4, as GPTQ's code can. Embeddings, norms and the
output head stay as they are.

## When it pays

At 8 bits it loses next to nothing and is the right choice. At 4 bits with groups of 128 or fewer it is decent; below,
use `gptq` or `awq`.

## What is ours

Scales are rounded to half precision before the weights are, because every file format stores them so: what is
measured is what is written.";

fn build(knobs: &Knobs, _: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    Ok(Arc::new(Rtn { grid: Grid::of(knobs)? }))
}

/// The method, built for one model.
#[derive(Clone, Debug)]
struct Rtn {
    grid: Grid,
}

impl Method for Rtn {
    fn begin(&self) -> Stages {
        Stages::from_iter([Stage::WeightEdit(Box::new(self.clone()))])
    }

    fn expect(&self) -> String {
        format!("{} bits a weight and the scales; no data needed", self.grid.bits)
    }
}

impl WeightEdit for Rtn {
    fn edit(&mut self, block: &mut Block<'_>) -> Result<(), ShrinkError> {
        block.all_matrices().iter().try_for_each(|name| self.grid.round_matrix(block, name))
    }
}

#[cfg(test)]
mod tests {
    use crate::shrink::testing::{model, shrunk};
    use crate::shrink::{ShrinkError, relative_error};

    #[test]
    fn more_bits_and_smaller_groups_err_less() {
        let files = model(3);
        let error = |with: &str| {
            let report = shrunk(&files, with, 0).unwrap().report;
            assert_eq!(report.lines.len(), 14, "seven matrices in each of two blocks");
            report.lines.iter().filter_map(|line| line.error).sum::<f64>()
        };
        let [two, four, eight] = [2, 4, 8].map(|bits| error(&format!("rtn:bits={bits},group=32")));
        assert!(two > 10.0 * four && four > 100.0 * eight, "{two} {four} {eight}");
        assert!(error("rtn:group=16") < four && four < error("rtn:group=0"));
        assert!(error("rtn:bits=3,group=32,search") < error("rtn:bits=3,group=32"));
    }

    #[test]
    fn what_is_read_back_is_what_was_rounded() {
        let files = model(4);
        let outcome = shrunk(&files, "rtn:bits=4,group=32", 0).unwrap();
        let name = "model.layers.1.mlp.down_proj.weight";
        use crate::load::Checkpoint;
        let before = files.weights.read(name).unwrap().to_f32(name).unwrap();
        let after = outcome.weights.read(name).unwrap().to_f32(name).unwrap();
        let levels = outcome.weights.levels(name).unwrap().unwrap();
        assert_eq!(levels.values(), after);
        let line = outcome.report.lines.iter().find(|line| line.tensor == name).unwrap();
        assert_eq!(line.error, Some(relative_error(&before, &after)));
        assert_eq!(line.bits, 4.0 + 20.0 / 32.0);
    }

    #[test]
    fn rows_that_groups_do_not_divide_are_refused_with_the_tensors_name() {
        let refused = shrunk(&model(3), "rtn:group=48", 0).unwrap_err();
        let message = refused.to_string();
        assert!(matches!(refused, ShrinkError::Group { inputs: 64, group: 48, .. }), "{message}");
        assert!(message.contains("model.layers.0.self_attn.q_proj.weight"), "{message}");
    }
}
