//! Token Transforming (Zeng et al., 2025, arXiv 2506.05709): every way of making tokens fewer is a product with a
//! matrix. Dropping and merging use matrices in which each source goes to one place at most, and lose what does not
//! fit there. Here a token that goes spreads over several of those that stay, by similarity, so that nothing is
//! thrown away and nothing has to be trained. The paper's exact matrix is not known to us: this is its idea with
//! choices of our own.

use std::sync::Arc;

use super::tome::PROPORTIONAL;
use crate::methods::reducers::anchors::{Anchors, Spreading};
use crate::methods::reducers::pace::{BLOCKS, KEEP, LIST, R, pace};
use crate::methods::reducers::{CLAIMS, Looks, MapError, Reducer, Rule, STAGES, TokenMap, Tokens};
use crate::methods::{
    Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Paper, Room, Spec,
    Value,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "token-transforming",
    title: "Token Transforming",
    paper: Paper {
        title: "Token Transforming: A Unified and Training-Free Token Compression Framework for Vision Transformer \
                Acceleration",
        authors: "Fanhu Zeng, Deli Yu, Zhenglun Kong, Hao Tang",
        year: 2025,
        arxiv: "2506.05709",
    },
    room: Room::Tokens,
    fidelity: Fidelity::Lossy,
    summary: "In every block of a vision transformer r tokens go, and each spreads over the tokens that stay, the more \
              over those that it is most like: many to many, in one product with a matrix. The matrix is rebuilt from \
              the paper's idea; its details are ours.",
    long: LONG,
    stages: STAGES,
    claims: CLAIMS,
    knobs: KNOBS,
    needs: &[],
    models: &[ModelKind::Vision],
    headlines: &[
        Headline {
            setting: "DeiT-S, ImageNet, no training, 40 % fewer operations",
            metric: "top-1, speed",
            baseline: "79.8, 1x",
            result: "0.1 points less, 1.5x",
        },
        Headline {
            setting: "ADE20K, about 30 % fewer operations",
            metric: "quality",
            baseline: "dense",
            result: "near lossless",
        },
    ],
    build,
};

const KNOBS: &[Knob] = &[
    R,
    pace("constant"),
    KEEP,
    BLOCKS,
    LIST,
    Knob {
        name: "anchors",
        kind: Kind::Choice { options: &["distinct", "attended", "mixed", "uniform"] },
        default: Value::Choice("distinct"),
        off: None,
        help: "which tokens stay: those that are least like another, the most attended, half of these and half spread evenly, or \
               all spread evenly",
    },
    Knob {
        name: "tau",
        kind: Kind::Float { min: 0.0, max: 100.0 },
        default: Value::Float(0.1),
        off: None,
        help: "what similarities are divided by; at 0 each token goes to the most similar one alone",
    },
    Knob {
        name: "top",
        kind: Kind::Int { min: 0, max: 65536 },
        default: Value::Int(4),
        off: None,
        help: "over how many tokens one spreads at most; 0 for all",
    },
    Knob {
        name: "whole",
        kind: Kind::Flag,
        default: Value::Flag(true),
        off: None,
        help: "whether the tokens that stay keep to themselves",
    },
    PROPORTIONAL,
];

const LONG: &str = "\
## How it works

1. Between the attention of a block and its feed-forward part, as many patches as shall stay become anchors: those that no
   other one stands for. Of the two patches whose keys are most alike the smaller one goes, of equal ones the later, then of
   the next two, until no more than these are there. The class token stays as it is.
2. Each patch spreads its size over the anchors by a softmax of the cosines of their keys, divided by `tau`; only the
   `top` most similar ones get a share. Anchors keep to themselves (`whole`).
3. An anchor becomes the mean of all that came to it, weighted by what each gave, and its size the sum. No size is lost.
4. From then on attention adds the logarithm of a token's size to its scores.

The same matrix leads back to all places for dense outputs: a place gets the mean of the tokens that it went into, by its
shares in them.

Other methods are corners of it. At `tau=0` each token has one destination, which is hard merging; ToMe, EViT and Top-K
pruning have matrices of the same kind, and the tests compare each with its matrix.

## When it pays

As ToMe: on models of many tokens. The defaults are those that lose least on the small models trained here: at 60 % of the
multiplications toy-crate, plainly right in 94.4 % of cases, keeps 94.3 %, and ToMe 94.5 %. Which tokens stay is what matters:
with `anchors=mixed` it keeps 93.1 %, with `attended` 87.9 % and with `uniform` 75.2 %. Spreading over several tokens is no better
there than going to one (`tau=0`: 94.3 %).

## What is the paper's and what is ours

The paper's: reduction as one many-to-many matrix product in each block, made from what the attention already computes,
without training; the way back by the same matrix. Ours, for no code of it is published and the paper's matrix could not
be checked: how anchors are chosen, the softmax of cosines of keys and its temperature, the limit to `top` anchors, and
attention in proportion to size, which is ToMe's. Take results as those of this reconstruction.";

#[derive(Debug)]
struct Spread(Spreading);

impl Rule for Spread {
    fn looks(&self) -> Looks {
        Looks { keys: true, attention: matches!(self.0.anchors, Anchors::Attended | Anchors::Mixed) }
    }

    fn map(&self, tokens: &Tokens<'_>, keep: usize) -> Result<TokenMap, MapError> {
        self.0.map(tokens, keep)
    }
}

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let anchors = match knobs.choice("anchors") {
        "mixed" => Anchors::Mixed,
        "uniform" => Anchors::Uniform,
        "distinct" => Anchors::Distinct,
        _ => Anchors::Attended,
    };
    let spreading = Spreading {
        anchors,
        temperature: knobs.float("tau") as f32,
        top: knobs.int("top"),
        whole: knobs.flag("whole"),
    };
    Ok(Arc::new(Reducer::new(knobs, model, Arc::new(Spread(spreading)), knobs.flag("proportional"))?))
}

#[cfg(test)]
mod tests {

    use crate::methods::reducers::testing::counts;

    #[test]
    fn r_tokens_go_in_every_block_until_one_is_left() {
        assert_eq!(counts("token-transforming", 3, 65), [52, 39, 26]);
        assert_eq!(counts("token-transforming:r=40,anchors=mixed", 3, 65), [25, 2, 2]);
        assert_eq!(counts("token-transforming:r=40,anchors=uniform,top=0,whole=false", 2, 65), [25, 2]);
    }
}
