//! BlockFFN (Song et al., 2025, arXiv 2507.08771): a feed-forward block of many small experts, of which
//! a token uses those whose gate a ReLU leaves open. Two losses teach the router to open few, and to
//! open the same ones for neighbouring tokens, so that not only one token but a chunk of them, such as a
//! drafted tree, goes through a small part of the weights. The kernel reads the union of the experts of
//! all tokens of a pass and leaves out the rest. The result is that of the dense block, bit for bit.

use std::sync::Arc;

use crate::methods::{
    Access, Claim, Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Need,
    Paper, Resource, Room, Route, Spec, Stage, StageKind, Stages, Value,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "blockffn",
    title: "BlockFFN",
    paper: Paper {
        title: "BlockFFN: Towards End-Side Acceleration-Friendly Mixture-of-Experts with Chunk-Level \
                Activation Sparsity",
        authors: "Chenyang Song, Weilin Zhao, Xu Han, Chaojun Xiao, Yingfa Chen, Yuxuan Li, Zhiyuan Liu, \
                  Maosong Sun",
        year: 2025,
        arxiv: "2507.08771",
    },
    room: Room::Weights,
    fidelity: Fidelity::Exact,
    summary: "A BlockFFN model's feed-forward block consists of many small experts, and its router was \
              trained to open few of them, the same ones for neighbouring tokens. With the method on, a \
              pass reads only the experts that some of its tokens open, and computes only the pairs of \
              token and expert that are open: a fraction of the weights for one token, and not much more \
              for a drafted tree. The output does not change.",
    long: LONG,
    stages: &[StageKind::Route],
    claims: &[Claim { resource: Resource::Experts, access: Access::Own }],
    knobs: &[Knob {
        name: "sparse",
        kind: Kind::Flag,
        default: Value::Flag(true),
        off: Some(Value::Flag(false)),
        help: "leave out the experts that no token opens; false reads all of them, as a dense block does",
    }],
    needs: &[Need::Weights("a model trained as BlockFFN (`whit train block-lm` makes a small one)")],
    models: &[ModelKind::Decoder],
    headlines: &[
        Headline {
            setting: "2.8B, Spec-Bench, Jetson Orin NX 16 GB, one-token kernel",
            metric: "tokens/s",
            baseline: "12.84 (dense, autoregressive)",
            result: "40.36 (3.14x)",
        },
        Headline {
            setting: "2.8B, Spec-Bench, Jetson Orin NX 16 GB, 32-token kernel with EAGLE-2",
            metric: "tokens/s",
            baseline: "12.84 (dense, autoregressive); 22.36 (dense with EAGLE-2)",
            result: "47.17 (3.67x)",
        },
        Headline {
            setting: "2.8B, feed-forward time of a step: one token, then a tree of 32",
            metric: "ms",
            baseline: "61; 88",
            result: "7.8 (12.45 % of the experts); 27 (30.86 %)",
        },
        Headline {
            setting: "0.1B trained alike: BlockFFN beside a top-k mixture",
            metric: "experts closed for a token / for 8 together / perplexity",
            baseline: "79.17 % / 49.18 % / 16.22",
            result: "80.54 % / 71.38 % / 14.88",
        },
    ],
    build,
};

const LONG: &str = "\
## How it works

1. The router gives each expert a score, `a0 = W x`. An expert is open where its score is above zero, so a token may
   open any number of them. The gates are `a = RMSNorm(ReLU(a0))` over the experts, with a learned weight: how large a
   gate is does not depend on how many are open.
2. An expert is a small block without a gate of its own, `D SiLU(U x)`, and the output is the sum of the open experts'
   outputs times their gates. There is no softmax, no top-k, and no limit on an expert's tokens.
3. Training adds two losses. *Activation locality* is the cross-entropy between the sharpened scores of a token and
   those of the one before it; *chunk sparsification* is the mean chance that an expert is opened by any of 64 tokens in
   a row, if each opened one in proportion to its scores. The weight of the second grows while it does not fall.
4. At inference every expert is packed on its own. A pass collects the union of the experts of all its tokens, and goes
   through each with the tokens that open it. The sums run over the experts in order, so leaving out one that adds
   nothing changes no bit.

Of a chunk of tokens, *TLS* is the mean share of experts closed for one token, and *CLS* of length L the share closed
for all of L tokens in a row. `whit train` prints both for the recipe `block-lm` and for what it is to be compared with:
`block-lm-plain`, the same without the two losses, and `block-lm-topk`, the same experts behind the router of a usual
mixture. That one opens the k experts with the highest scores, whose gates are the softmax over these scores, and is
trained with a loss that gives all experts the same load. `block-lm-dense` has a dense block of as many weights.

## When it pays

Reading the weights of the feed-forward blocks is most of the time of a decode step, and the time falls nearly as the
share of experts that are read. It works together with any draft: a tree of tokens reads the union of its experts, which
a model trained with the two losses keeps small. It pays in prompts too, where arithmetic is the limit, because closed
pairs are not computed. Where nearly all experts are open it costs a few percent.

It only works on models with such experts: `config.json` says `\"ffn_type\": \"block\"`. With `\"router_act\": \"topk\"` and
`\"num_experts_per_tok\"` in the place of `\"norm_after_router\"` the router chooses; then a token reads as few experts, but
tokens in a row read more of them together, since nothing taught them to agree. It does nothing for attention and for
the output head.

## What is ours

The paper's kernel computes all tokens of a pass in every expert of the union; here each expert sees only the tokens
that open it, which is the same sum with fewer terms. The paper's kernels take 1, 32 or 64 tokens, at most 128 experts
and test the sign of the gate after its norm; here there may be any number of each, and an expert is open where its gate
is not zero. Prompts are sparse too; the paper's are dense. Latent attention keeps expanded keys in its cache. The router
that chooses follows the paper's code, with gates that sum to one and load counted over all choices; its loss has the
weight of Switch, and the experts behind it are BlockFFN's.";

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    match model.block_experts {
        Some(experts) => Ok(Arc::new(BlockFfn { experts, layers: model.layers })),
        None => Err(MethodError::Unfit {
            method: SPEC.id,
            knob: "sparse",
            value: knobs.flag("sparse").to_string(),
            reason: format!(
                "{} has no BlockFFN experts (`ffn_type` block in config.json)",
                model.architecture
            ),
        }),
    }
}

/// The method, built for one model.
#[derive(Debug)]
struct BlockFfn {
    experts: usize,
    layers: usize,
}

impl Method for BlockFfn {
    fn begin(&self) -> Stages {
        let router = Router { last: vec![Vec::new(); self.layers], ..Router::default() };
        Stages::from_iter([Stage::Route(Box::new(router))])
    }

    fn expect(&self) -> String {
        format!("reads those of the {} experts of a layer that some token opens", self.experts)
    }
}

/// The state of one sequence: counts for the report.
#[derive(Debug, Default)]
struct Router {
    /// Passes of one token through a layer.
    single: Reading,
    /// Passes of several tokens.
    several: Reading,
    /// Which experts the last pass opened, for each layer.
    last: Vec<Vec<bool>>,
    /// Experts opened, and those of them that the pass before had opened too; of passes of one token.
    reuse: [usize; 2],
}

/// Experts read, of how many; both summed over passes and layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reading {
    opened: usize,
    experts: usize,
    tokens: usize,
    passes: usize,
}

impl Route for Router {
    fn route(&mut self, layer: usize, gates: &[f32], experts: usize) -> bool {
        let mut union = vec![false; experts];
        for row in gates.chunks_exact(experts) {
            union.iter_mut().zip(row).for_each(|(open, gate)| *open |= *gate != 0.0);
        }
        let tokens = gates.len() / experts;
        let opened = union.iter().filter(|open| **open).count();
        let reading = if tokens == 1 { &mut self.single } else { &mut self.several };
        reading.opened += opened;
        reading.experts += experts;
        reading.tokens += tokens;
        reading.passes += 1;
        if let Some(last) = self.last.get_mut(layer) {
            if tokens == 1 && !last.is_empty() {
                let again = union.iter().zip(&*last).filter(|(now, before)| **now && **before).count();
                self.reuse[0] += opened;
                self.reuse[1] += again;
            }
            *last = union;
        }
        true
    }

    fn report(&self) -> String {
        let mut parts = Vec::new();
        if self.single.passes > 0 {
            parts.push(format!("{} for one token", self.single.share()));
        }
        if self.several.passes > 0 {
            let tokens = self.several.tokens as f64 / self.several.passes as f64;
            parts.push(format!("{} for {tokens:.0} together", self.several.share()));
        }
        if self.reuse[0] > 0 {
            parts.push(format!("{:.0} % the same as before", percent(self.reuse[1], self.reuse[0])));
        }
        format!("experts read: {}", parts.join(", "))
    }
}

impl Reading {
    fn share(&self) -> String {
        format!("{:.1} %", percent(self.opened, self.experts))
    }
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_reads_the_union_and_counts_what_comes_again() {
        let mut router = Router { last: vec![Vec::new()], ..Router::default() };
        assert!(router.route(0, &[0.0, 1.0, -2.0, 0.0], 4));
        router.route(0, &[0.0, 0.0, 1.0, 3.0], 4);
        router.route(0, &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0], 4);
        assert_eq!(router.single, Reading { opened: 4, experts: 8, tokens: 2, passes: 2 });
        assert_eq!(router.several, Reading { opened: 2, experts: 4, tokens: 2, passes: 1 });
        assert_eq!(router.reuse, [2, 1]);
        let report = router.report();
        assert_eq!(
            report,
            "experts read: 50.0 % for one token, 50.0 % for 2 together, 50 % the same as before"
        );
    }

    #[test]
    fn a_model_without_such_experts_is_refused() {
        let model = ModelFacts { block_experts: None, ..ModelFacts::example() };
        let refusal = build(&Knobs::defaults(&SPEC), &model).unwrap_err().to_string();
        assert!(refusal.contains("blockffn") && refusal.contains("ffn_type"), "{refusal}");
    }
}
