//! EViT (Liang et al., 2022, arXiv 2202.07800): what the class token does not look at matters little for the class.
//! In three blocks of a vision transformer the patches are ranked by the attention that the class token pays them;
//! the best share stays, and the others are fused into one token, their mean by that attention.

use std::sync::Arc;

use crate::methods::reducers::pace::{BLOCKS, KEEP, LIST, R, pace};
use crate::methods::reducers::{CLAIMS, Looks, MapError, Reducer, Rule, STAGES, TokenMap, Tokens, ranking};
use crate::methods::{
    Fidelity, Headline, Knobs, Method, MethodError, ModelFacts, ModelKind, Paper, Room, Spec,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "evit",
    title: "EViT",
    paper: Paper {
        title: "Not All Patches are What You Need: Expediting Vision Transformers via Token Reorganizations",
        authors: "Youwei Liang, Chongjian Ge, Zhan Tong, Yibing Song, Jue Wang, Pengtao Xie",
        year: 2022,
        arxiv: "2202.07800",
    },
    room: Room::Tokens,
    fidelity: Fidelity::Lossy,
    summary: "In three blocks of a vision transformer the patches that the class token attends to least are fused into \
              one token, their mean by that attention; the others stay. Meant to be trained with, it also works \
              without.",
    long: LONG,
    stages: STAGES,
    claims: CLAIMS,
    knobs: &[KEEP, pace("stages"), BLOCKS, R, LIST],
    needs: &[],
    models: &[ModelKind::Vision],
    headlines: &[Headline {
        setting: "DeiT-S trained with it, ImageNet, 0.7 kept in blocks 4, 7 and 10",
        metric: "top-1, images a second",
        baseline: "79.8, 1x",
        result: "79.5, 1.5x",
    }],
    build,
};

const LONG: &str = "\
## How it works

Behind the attention of the 4th, 7th and 10th of 12 blocks (those behind a quarter, a half and three quarters of any
model) the patches are ranked by the attention of the class token, averaged over the heads. `keep` of them stay in their
places. The others become one token, their mean weighted by their attention, which goes on as a patch among the rest.

Models without a class token rank by the attention that a token gets from all others.

## When it pays

Where one thing in the picture decides the answer. Where the answer lies all over the picture (counting, dense outputs),
merging methods lose less. The paper trains with it, which is not done here: expect to lose more than it reports.

## What is ours

With `pace=constant` and `pace=decreasing`, `r` tokens are fused in every block, for comparison at the same cost; each
leaves one more. The rule for models without a class token is ours too.";

#[derive(Debug)]
struct Fuse;

impl Rule for Fuse {
    fn looks(&self) -> Looks {
        Looks { keys: false, attention: true }
    }

    fn map(&self, tokens: &Tokens<'_>, keep: usize) -> Result<TokenMap, MapError> {
        ranking::fused(tokens, keep)
    }

    fn left(&self, _: usize, keep: usize) -> usize {
        keep + 1
    }
}

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    Ok(Arc::new(Reducer::new(knobs, model, Arc::new(Fuse), false)?))
}

#[cfg(test)]
mod tests {
    use crate::methods::reducers::testing::counts;

    #[test]
    fn a_share_stays_in_three_blocks_with_one_more_for_the_rest() {
        assert_eq!(counts("evit", 8, 197), [197, 197, 140, 140, 100, 100, 72, 72]);
        assert_eq!(counts("evit:pace=constant,r=10", 2, 65), [56, 47]);
    }
}
