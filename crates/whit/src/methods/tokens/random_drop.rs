//! Random dropping of patches (PatchDropout, Liu et al., 2022, arXiv 2208.07220), here without training: the floor
//! under every comparison. What does not beat it has learnt nothing from looking.

use std::sync::Arc;

use crate::methods::reducers::pace::{BLOCKS, KEEP, LIST, R, pace};
use crate::methods::reducers::{CLAIMS, Looks, MapError, Reducer, Rule, STAGES, TokenMap, Tokens, ranking};
use crate::methods::{
    Fidelity, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind, Paper, Room, Spec, Value,
};

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "random-drop",
    title: "Random token dropping",
    paper: Paper {
        title: "PatchDropout: Economizing Vision Transformers Using Patch Dropout",
        authors: "Yue Liu, Christos Matsoukas, Fredrik Strand, Hossein Azizpour, Kevin Smith",
        year: 2022,
        arxiv: "2208.07220",
    },
    room: Room::Tokens,
    fidelity: Fidelity::Lossy,
    summary: "Patches of an image are dropped by chance. The floor under every comparison: a method that looks at the \
              model has to beat it by more than its own cost.",
    long: LONG,
    stages: STAGES,
    claims: CLAIMS,
    knobs: &[KEEP, pace("stages"), BLOCKS, R, LIST, SEED],
    needs: &[],
    models: &[ModelKind::Vision],
    headlines: &[],
    build,
};

const SEED: Knob = Knob {
    name: "seed",
    kind: Kind::Int { min: 0, max: 1 << 32 },
    default: Value::Int(0),
    off: None,
    help: "which patches go; the same for all images, whatever batch they are in",
};

const LONG: &str = "\
## How it works

Behind the attention of the blocks behind a quarter, a half and three quarters of the model, `keep` of the patches stay,
chosen by chance from `seed` and the number of the block. The places are the same for all images.

## When it pays

As a yardstick. The paper drops patches before the first block while a model is trained, to train it faster; nothing is
trained here. `blocks=1` comes closest to it.

## What is ours

Dropping inside the model, at the paces that the other methods have, so that all can be compared at the same cost.";

#[derive(Debug)]
struct Chance(u64);

impl Rule for Chance {
    fn looks(&self) -> Looks {
        Looks::default()
    }

    fn map(&self, tokens: &Tokens<'_>, keep: usize) -> Result<TokenMap, MapError> {
        ranking::random(tokens, keep, self.0)
    }
}

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    let chance = Chance(knobs.int("seed") as u64);
    Ok(Arc::new(Reducer::new(knobs, model, Arc::new(chance), false)?))
}

#[cfg(test)]
mod tests {
    use crate::methods::reducers::testing::{counts, outputs};

    #[test]
    fn a_share_stays_and_the_seed_decides_which() {
        assert_eq!(counts("random-drop:keep=0.5", 4, 65), [65, 33, 17, 9]);
        let run = |seed: usize| outputs(&format!("random-drop:seed={seed}"), 4, 33, 2);
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
