//! Typical acceptance (Cai et al., 2024, arXiv 2401.10774, section 2.3.1): a drafted token is accepted
//! not only if it is the model's own choice, but whenever the model finds it likely enough. How likely
//! that is depends on the entropy: where the model is unsure, less suffices. Longer drafts are accepted,
//! and the text is no longer that of the model alone.

use std::sync::Arc;

use crate::methods::{
    Accept, Accepted, Access, Claim, Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts,
    ModelKind, Paper, Resource, Room, Spec, Stage, StageKind, Stages, TokenTree, Value,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "typical-acceptance",
    title: "Typical Acceptance",
    paper: Paper {
        title: "Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads",
        authors: "Tianle Cai, Yuhong Li, Zhengyang Geng, Hongwu Peng, Jason D. Lee, Deming Chen, Tri Dao",
        year: 2024,
        arxiv: "2401.10774",
    },
    room: Room::Drafts,
    fidelity: Fidelity::Lossy,
    summary: "The exact rule accepts a drafted token only if it is the one that the model chooses. Typical \
              acceptance takes any that the model finds likely enough, and asks for less where the model is \
              unsure. Drafts of every method come further; the text is no longer the model's own.",
    long: LONG,
    stages: &[StageKind::Accept],
    claims: &[Claim { resource: Resource::Acceptance, access: Access::Own }],
    knobs: &[
        Knob {
            name: "epsilon",
            kind: Kind::Ratio,
            default: Value::Float(0.09),
            off: Some(Value::Float(1.0)),
            help: "the probability that always suffices; 1 leaves the exact rule in place",
        },
        Knob {
            name: "delta",
            kind: Kind::Ratio,
            default: Value::Float(0.3),
            off: None,
            help: "the part of exp(-entropy) that suffices too",
        },
        Knob {
            name: "temperature",
            kind: Kind::Float { min: 0.01, max: 4.0 },
            default: Value::Float(1.0),
            off: None,
            help: "what logits are divided by before they are judged",
        },
    ],
    needs: &[],
    models: &[ModelKind::Decoder],
    headlines: &[Headline {
        setting: "Vicuna 7B to 33B and Zephyr-7B with Medusa-2 heads",
        metric: "speed-up",
        baseline: "1x",
        result: "2.3x to 3.6x",
    }],
    build,
};

const LONG: &str = "\
## How it works

A drafted token `x` passes if `p(x) > min(epsilon, delta * exp(-H(p)))`, where `p` is the model's distribution at the
token before it, at `temperature`, and `H` its entropy. Of all paths of the tree whose tokens pass, the longest is
accepted; of equally long ones the likeliest. The model then chooses the next token as it would without drafts.

## When it pays

At high temperatures, where the exact rule rejects most of what a greedy draft proposes. It changes the text: it is
**lossy**, and greedy text changes too, since a token that is only second best may pass. Penalties of the sampler do
not see the tokens that it accepts. Without a draft it does nothing.

## What is ours

Medusa always accepts the first token greedily and has no temperature of its own. Here the rule is a method, so that
it can be stacked on every draft, and whoever switches it on is told that it is lossy.";

fn build(knobs: &Knobs, _: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    Ok(Arc::new(Typical {
        epsilon: knobs.float("epsilon") as f32,
        delta: knobs.float("delta") as f32,
        temperature: knobs.float("temperature") as f32,
    }))
}

/// The method, which has no state.
#[derive(Clone, Debug)]
struct Typical {
    epsilon: f32,
    delta: f32,
    temperature: f32,
}

impl Method for Typical {
    fn begin(&self) -> Stages {
        Stages::from_iter([Stage::Accept(Box::new(self.clone()))])
    }

    fn expect(&self) -> String {
        "more of each draft accepted, and another text: lossy".into()
    }
}

impl Accept for Typical {
    fn accept(&mut self, tree: &TokenTree, logits: &[f32], choose: &mut dyn FnMut(usize) -> u32) -> Accepted {
        let vocabulary = logits.len() / tree.len();
        // The log-probability of the path to each node that passes, as far as it does.
        let mut paths = vec![Some(0.0f32)];
        let mut best = (0, 0, 0.0);
        let mut judged = Vec::new();
        for node in 0..tree.len() {
            judged.push(None);
            let Some(parent) = tree.parents()[node] else { continue };
            let path = paths[parent].and_then(|path| {
                let row = &logits[parent * vocabulary..(parent + 1) * vocabulary];
                let (threshold, total) = *judged[parent].get_or_insert_with(|| self.threshold(row));
                let share = self.logit(row[tree.tokens()[node] as usize]) - total;
                (share > threshold).then_some(path + share)
            });
            paths.push(path);
            let depth = tree.depths()[node];
            if let Some(path) = path.filter(|&path| depth > best.1 || (depth == best.1 && path > best.2)) {
                best = (node, depth, path);
            }
        }
        Accepted { next: choose(best.0), path: tree.path(best.0) }
    }
}

impl Typical {
    fn logit(&self, logit: f32) -> f32 {
        logit / self.temperature
    }

    /// The logarithm of the probability that suffices, and that of the sum of all weights.
    fn threshold(&self, row: &[f32]) -> (f32, f32) {
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = row.iter().map(|&logit| self.logit(logit - top).exp()).sum();
        let total = self.logit(top) + sum.ln();
        let surprise = |&logit: &f32| {
            let share = self.logit(logit) - total;
            if share > -80.0 { -share * share.exp() } else { 0.0 }
        };
        let entropy: f32 = row.iter().map(surprise).sum();
        (self.epsilon.min(self.delta * (-entropy).exp()).ln(), total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with the children 0 and 1, and 2 below 1; logits are the logarithms of probabilities.
    fn accepted(root: [f32; 3], below: [f32; 3]) -> Accepted {
        let tree = TokenTree::new(vec![9, 0, 1, 2], vec![None, Some(0), Some(0), Some(2)]).unwrap();
        let logits: Vec<f32> = [root, below, below, below].concat().iter().map(|p| p.ln()).collect();
        let mut rule = Typical { epsilon: 0.09, delta: 0.3, temperature: 1.0 };
        rule.accept(&tree, &logits, &mut |node| 100 + node as u32)
    }

    #[test]
    fn the_longest_path_of_likely_tokens_is_accepted() {
        // The entropy of (0.8, 0.15, 0.05) is 0.61, so that 0.09 suffices: it is below 0.3 * exp(-0.61) = 0.16.
        assert_eq!(accepted([0.8, 0.15, 0.05], [0.1, 0.1, 0.8]), Accepted { path: vec![0, 2, 3], next: 103 });
        assert_eq!(accepted([0.8, 0.15, 0.05], [0.8, 0.15, 0.05]).path, [0, 1], "the likelier of two");
        assert_eq!(accepted([0.95, 0.04, 0.01], [0.1, 0.1, 0.8]).path, [0, 1]);
        assert_eq!(accepted([0.04, 0.01, 0.95], [0.1, 0.1, 0.8]), Accepted { path: vec![0], next: 100 });
    }

    #[test]
    fn where_the_model_is_unsure_less_suffices() {
        // Over 64 equal tokens exp(-H) is 1/64, and every token passes.
        let tree = TokenTree::chain(vec![0, 5]).unwrap();
        let mut rule = Typical { epsilon: 0.09, delta: 0.3, temperature: 1.0 };
        assert_eq!(rule.accept(&tree, &[0.0; 128], &mut |_| 7).path, [0, 1]);
        let mut strict = Typical { epsilon: 0.09, delta: 1.0, temperature: 1.0 };
        let mut logits = vec![0.0; 128];
        logits[5] = -1.0;
        assert_eq!(strict.accept(&tree, &logits, &mut |_| 7).path, [0]);
    }
}
