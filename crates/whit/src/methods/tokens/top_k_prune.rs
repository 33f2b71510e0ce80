//! Top-K pruning: the plainest rule that looks at the model, and the baseline of every comparison (Haurum et al.,
//! 2023, arXiv 2308.04657). The patches that the class token attends to most stay, the others are dropped.

use std::sync::Arc;

use crate::methods::reducers::pace::{BLOCKS, KEEP, LIST, R, pace};
use crate::methods::reducers::{CLAIMS, Looks, MapError, Reducer, Rule, STAGES, TokenMap, Tokens, ranking};
use crate::methods::{Fidelity, Knobs, Method, MethodError, ModelFacts, ModelKind, Paper, Room, Spec};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "top-k-prune",
    title: "Top-K token pruning",
    paper: Paper {
        title: "Which Tokens to Use? Investigating Token Reduction in Vision Transformers",
        authors: "Joakim Bruslund Haurum, Sergio Escalera, Graham W. Taylor, Thomas B. Moeslund",
        year: 2023,
        arxiv: "2308.04657",
    },
    room: Room::Tokens,
    fidelity: Fidelity::Lossy,
    summary: "In three blocks of a vision transformer the patches that the class token attends to least are dropped. \
              The plain baseline that methods which merge or fuse have to beat.",
    long: LONG,
    stages: STAGES,
    claims: CLAIMS,
    knobs: &[KEEP, pace("stages"), BLOCKS, R, LIST],
    needs: &[],
    models: &[ModelKind::Vision],
    headlines: &[],
    build,
};

const LONG: &str = "\
## How it works

Behind the attention of the blocks behind a quarter, a half and three quarters of the model the patches are ranked by the
attention of the class token, averaged over the heads, and `keep` of them stay in their places. Models without a class
token rank by the attention that a token gets from all others.

## When it pays

It is the cheapest rule: nothing is compared and nothing averaged. What is dropped is gone; a dense output has to make do
with the state in which a token was dropped.

## What is ours

The choice of blocks is EViT's. `pace=constant` and `list` are for comparison with other methods at the same cost.";

#[derive(Debug)]
struct Top;

impl Rule for Top {
    fn looks(&self) -> Looks {
        Looks { keys: false, attention: true }
    }

    fn map(&self, tokens: &Tokens<'_>, keep: usize) -> Result<TokenMap, MapError> {
        ranking::top(tokens, keep)
    }
}

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    Ok(Arc::new(Reducer::new(knobs, model, Arc::new(Top), false)?))
}

#[cfg(test)]
mod tests {
    use crate::methods::reducers::testing::counts;

    #[test]
    fn a_share_stays_in_three_blocks() {
        assert_eq!(counts("top-k-prune:keep=0.5", 4, 65), [65, 33, 17, 9]);
    }
}
