//! Token Merging, ToMe (Bolya et al., 2022, arXiv 2210.09461): tokens that say the same need not be computed twice.
//! After the attention of every block the tokens are dealt into two sets; each of the first set looks in the second
//! for the one whose key is most like its own, and the r most similar pairs become one token, their mean by the
//! number of patches that each stands for. Attention then counts a merged token as often as it has patches. Nothing
//! is trained, and a model of 12 blocks is left with 12 r fewer tokens at its end.

use std::sync::Arc;

use crate::methods::reducers::bipartite::Matching;
use crate::methods::reducers::pace::{BLOCKS, KEEP, LIST, R, pace};
use crate::methods::reducers::{CLAIMS, Looks, MapError, Reducer, Rule, STAGES, TokenMap, Tokens};
use crate::methods::{
    Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Paper, Room, Spec,
    Value,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "tome",
    title: "Token Merging (ToMe)",
    paper: Paper {
        title: "Token Merging: Your ViT But Faster",
        authors: "Daniel Bolya, Cheng-Yang Fu, Xiaoliang Dai, Peizhao Zhang, Christoph Feichtenhofer, Judy Hoffman",
        year: 2022,
        arxiv: "2210.09461",
    },
    room: Room::Tokens,
    fidelity: Fidelity::Lossy,
    summary: "In every block of a vision transformer the r pairs of tokens whose keys are most alike become one, \
              their mean by size. Attention counts a merged token as often as it has patches. Nothing is trained, \
              and nothing is thrown away.",
    long: LONG,
    stages: STAGES,
    claims: CLAIMS,
    knobs: &[R, pace("constant"), KEEP, BLOCKS, LIST, PROPORTIONAL],
    needs: &[],
    models: &[ModelKind::Vision],
    headlines: &[
        Headline {
            setting: "DeiT-S trained with it, ImageNet, r = 13, V100",
            metric: "top-1, images a second",
            baseline: "79.8, 930",
            result: "79.36, 1550",
        },
        Headline {
            setting: "ViT-B/16 off the shelf, r = 13, V100",
            metric: "top-1, images a second",
            baseline: "84.57, 309",
            result: "82.60, 511",
        },
        Headline {
            setting: "ViT-L/16 at 384 pixels off the shelf, r = 23, V100",
            metric: "top-1, images a second",
            baseline: "86.92, 28",
            result: "86.14, 56",
        },
    ],
    build,
};

/// The knob `proportional`.
pub(super) const PROPORTIONAL: Knob = Knob {
    name: "proportional",
    kind: Kind::Flag,
    default: Value::Flag(true),
    off: None,
    help: "whether attention counts a token as often as it has patches; false for MAE models off the shelf",
};

const LONG: &str = "\
## How it works

1. Between the attention of a block and its feed-forward part, tokens of even and of odd number form two sets. The class
   token takes no part.
2. Each of the first set looks for the token of the second whose key, averaged over the heads, has the greatest cosine
   with its own.
3. The `r` best pairs are merged: the mean by size, where a token's size is the number of patches in it.
4. From then on attention adds the logarithm of a token's size to its scores, so that one token of three patches weighs as
   much as three.

Tokens come out in another order on purpose: the next block then compares other pairs. Each block can at most halve the
patches. Where a model averages all tokens in the end, it averages them by size.

`pace=decreasing` removes 2 r tokens in the first block and none in the last; `pace=stages` merges down to `keep` of the
patches in a few blocks only; `list` says each block's number.

## When it pays

On models of many tokens: attention grows with the square of their number, and the time that matching takes does not
matter beside it. On small images of a few dozen patches little is saved, and a merged token stands for much of the
picture. What is lost depends on the model: measure it with `whit classify` on images of your own.

Models that were trained without the size of tokens and average them in the end (MAE off the shelf) do better with
`proportional=false`, says the paper.

## What is ours

Written from the paper's formulas. A key of length zero is like no other instead of being a division by zero. `stages`
and `list` are for comparison with other methods at the same cost.";

#[derive(Debug)]
struct Merge;

impl Rule for Merge {
    fn looks(&self) -> Looks {
        Looks { keys: true, attention: false }
    }

    fn map(&self, tokens: &Tokens<'_>, keep: usize) -> Result<TokenMap, MapError> {
        Matching::of(tokens, tokens.patches() - keep).map(tokens)
    }

    fn left(&self, patches: usize, keep: usize) -> usize {
        keep.max(patches - patches / 2)
    }
}

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    Ok(Arc::new(Reducer::new(knobs, model, Arc::new(Merge), knobs.flag("proportional"))?))
}

#[cfg(test)]
mod tests {
    use crate::methods::reducers::testing::counts;

    #[test]
    fn r_tokens_go_in_every_block_and_at_most_half() {
        assert_eq!(counts("tome:r=13", 4, 197), [184, 171, 158, 145]);
        assert_eq!(counts("tome:r=13,pace=decreasing", 4, 65), [39, 22, 14, 14]);
        assert_eq!(counts("tome:r=40", 3, 65), [33, 17, 9]);
    }
}
