//! Speculative decoding (Leviathan et al., 2022, arXiv 2211.17192): a small model with the same
//! vocabulary writes a few tokens ahead, and one forward pass of the large model verifies them all.
//! What agrees is accepted, and the large model's own next token comes on top. The output is that of the
//! large model alone, token for token; only the number of its passes falls. The small model keeps a
//! cache of its own, from which rejected tokens are dropped.

use std::sync::Arc;
use std::time::Instant;

use whit_kernels::op;

use crate::generate::cache::{CacheShape, KvCache};
use crate::generate::forward::{self, Span};
use crate::generate::sampler::argmax;
use crate::methods::tuner::{CLAIMS, STAGES, TUNE_TOKENS, Tally, Tuned, tune};
use crate::methods::{
    Draft, DraftModel, Fidelity, Headline, Kind, Knob, Knobs, Method, MethodError, ModelFacts, ModelKind,
    Need, Paper, Room, Spec, Stage, Stages, TokenTree, Value, Verified,
};
use crate::nn::decoder::Decoder;

/// The description of the method.
pub static SPEC: Spec = Spec {
    id: "draft-model",
    title: "Speculative Decoding",
    paper: Paper {
        title: "Fast Inference from Transformers via Speculative Decoding",
        authors: "Yaniv Leviathan, Matan Kalman, Yossi Matias",
        year: 2022,
        arxiv: "2211.17192",
    },
    room: Room::Drafts,
    fidelity: Fidelity::Exact,
    summary: "Many tokens are easy, and a small model guesses them as well as a large one. Speculative decoding \
              lets a small model of the same vocabulary write a few tokens ahead and verifies them all in one \
              forward pass of the large one; what agrees is kept. The text is the large model's.",
    long: LONG,
    stages: STAGES,
    claims: CLAIMS,
    knobs: &[
        Knob {
            name: "tokens",
            kind: Kind::Int { min: 0, max: 32 },
            default: Value::Int(8),
            off: Some(Value::Int(0)),
            help: "most drafted tokens a step",
        },
        Knob {
            name: "confidence",
            kind: Kind::Ratio,
            default: Value::Float(0.3),
            off: None,
            help: "end the draft before a token that the draft model finds less likely; 0 never does",
        },
        tune(TUNE_TOKENS),
    ],
    needs: &[Need::DraftModel("a smaller model with the same vocabulary, as `--draft-model`")],
    models: &[ModelKind::Decoder],
    headlines: &[
        Headline {
            setting: "T5-XXL (11B) with T5-small (77M), English to German, temperature 0, one TPU-v4",
            metric: "speed-up",
            baseline: "1x",
            result: "3.4x",
        },
        Headline { setting: "the same, temperature 1", metric: "speed-up", baseline: "1x", result: "2.6x" },
    ],
    build,
};

const LONG: &str = "\
## How it works

1. The draft model reads what was committed since its last turn, and then takes its best token, up to `tokens`
   times. It stops early where it is not sure (`confidence`).
2. One forward pass of the model verifies the chain. At each token the model chooses its own, greedily or by a
   sample; as long as that is the drafted one, the walk goes on.
3. The draft model's cache is cut back to what was accepted.

One random number is drawn for each committed token, in order, so that sampled text too is the text that the model
alone would have written.

## When it pays

The draft model should be ten times smaller or more, and of the same family, so that it often agrees. A forward pass
of the model over a few tokens must cost little more than over one, as it does where reading the weights is what
takes the time. `tune` measures passes with the time of their drafts and picks the number of tokens with the most
tokens a second, down to none.

`--draft-model layers:N` drafts with the model's own first N layers, read out by its own norm and head: LayerSkip's
self-speculation (Elhoushi et al., 2024, arXiv 2404.16710). It needs no second model, and pays with one that was trained
with a loss at every layer, as `whit train rust-lm-exits` does.

## What is ours

LayerSkip goes on from the draft's states when it verifies; here the first layers read the drafted tokens twice, and
keep a cache of their own.

The paper samples its drafts and accepts them by rejection sampling, which accepts more at high temperatures; here
drafts are greedy and the walk is exact for each random stream, not only in distribution. `confidence` and `tune`
are additions.";

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Arc<dyn Method>, MethodError> {
    Ok(Arc::new(Speculative {
        draft: model.draft_model(SPEC.id)?.clone(),
        vocabulary: model.vocabulary,
        confidence: knobs.float("confidence") as f32,
        tuned: Tuned::new(knobs, &[1, 2, 3, 4, 6, 8, 12, 16, 24], knobs.int("tokens")),
    }))
}

/// The method, built for one model.
#[derive(Clone, Debug)]
struct Speculative {
    draft: DraftModel,
    /// Ids that the model has; the draft model may have spare ones.
    vocabulary: usize,
    confidence: f32,
    /// How many tokens to draft.
    tuned: Tuned,
}

impl Method for Speculative {
    fn begin(&self) -> Stages {
        let facts = &self.draft.facts;
        let shape = CacheShape { layers: facts.layers, kv_heads: facts.kv_heads, head_dim: facts.head_dim };
        Stages::from_iter([Stage::Draft(Box::new(Ahead {
            method: self.clone(),
            cache: KvCache::new(shape, 0),
            read: Vec::new(),
            catching_up: 0.0,
            tally: Tally::default(),
        }))])
    }

    fn expect(&self) -> String {
        let facts = &self.draft.facts;
        let origin = &self.draft.vocabulary.origin;
        format!(
            "up to {} tokens verified a forward pass; drafts by {origin} ({} layers, width {})",
            self.tuned.most() + 1,
            facts.layers,
            facts.width
        )
    }
}

/// The state of one sequence.
#[derive(Debug)]
struct Ahead {
    method: Speculative,
    cache: KvCache,
    /// The tokens whose rows the cache holds.
    read: Vec<u32>,
    /// Seconds that the last proposal spent on tokens other than its own and its predecessor's.
    catching_up: f64,
    tally: Tally,
}

/// The most tokens that the draft model reads in one pass.
const CHUNK: usize = 512;

impl Draft for Ahead {
    fn propose(&mut self, committed: &[u32], room: usize) -> Result<TokenTree, MethodError> {
        let Some(&root) = committed.last() else { return Ok(TokenTree::root(0)) };
        self.catching_up = 0.0;
        let decoder = Arc::clone(self.method.draft.decoder(SPEC.id)?);
        let length = self.method.tuned.nodes().min(room).min(self.room(&decoder, committed));
        let mut tokens = vec![root];
        if length > 0 {
            self.draft(&decoder, committed, length, &mut tokens)?;
        }
        Ok(TokenTree::chain(tokens)?)
    }

    fn learn(&mut self, verified: &Verified<'_>) {
        self.tally.add(verified);
        let (drafted, accepted) = (verified.tree.len() - 1, verified.accepted.path.len() - 1);
        self.method.tuned.timed(drafted, verified.seconds - self.catching_up);
        if drafted > 0 {
            self.method.tuned.judged(|size| size.min(accepted));
        }
    }

    fn report(&self) -> String {
        self.tally.report(self.method.tuned.is_off())
    }
}

impl Ahead {
    /// How many tokens the draft model can add before its context or its vocabulary ends.
    fn room(&self, decoder: &Decoder, committed: &[u32]) -> usize {
        let vocabulary = decoder.config().vocab_size;
        if committed.iter().any(|&token| token as usize >= vocabulary) {
            return 0;
        }
        (decoder.config().max_positions + 1).saturating_sub(committed.len())
    }

    /// Adds up to `length` tokens to `tokens`.
    fn draft(
        &mut self,
        decoder: &Decoder,
        committed: &[u32],
        length: usize,
        tokens: &mut Vec<u32>,
    ) -> Result<(), MethodError> {
        let mut logits = self.catch_up(decoder, committed)?;
        loop {
            let token = argmax(&logits);
            if token as usize >= self.method.vocabulary || share(&logits, token) < self.method.confidence {
                return Ok(());
            }
            tokens.push(token);
            if tokens.len() > length {
                return Ok(());
            }
            logits = self.read(decoder, &[token])?;
        }
    }

    /// Brings the cache in step with `committed`; returns the logits after its last token.
    fn catch_up(&mut self, decoder: &Decoder, committed: &[u32]) -> Result<Vec<f32>, MethodError> {
        let agreed = self.read.iter().zip(committed).take_while(|(read, token)| read == token).count();
        let known = agreed.min(committed.len() - 1);
        self.cache.truncate(known);
        self.read.truncate(known);
        let (start, behind) = (Instant::now(), committed.len() - known);
        let mut logits = Vec::new();
        for chunk in committed[known..].chunks(CHUNK) {
            logits = self.read(decoder, chunk)?;
        }
        if behind > self.method.tuned.most() + 1 {
            self.catching_up = start.elapsed().as_secs_f64();
        }
        Ok(logits)
    }

    /// Reads tokens; returns the logits after the last.
    fn read(&mut self, decoder: &Decoder, tokens: &[u32]) -> Result<Vec<f32>, MethodError> {
        self.read.extend_from_slice(tokens);
        let length = self.read.len() as u32;
        let span = Span::causal(&mut self.cache, tokens.to_vec(), length);
        let hidden = forward::forward(decoder, vec![span])?;
        let [rows, width] = hidden.dims();
        Ok(op::host(decoder.logits(hidden.slice([rows - 1..rows, 0..width]))).into_vec())
    }
}

/// The probability of `token`.
fn share(logits: &[f32], token: u32) -> f32 {
    let top = logits[token as usize];
    1.0 / logits.iter().map(|logit| (logit - top).exp()).sum::<f32>()
}
