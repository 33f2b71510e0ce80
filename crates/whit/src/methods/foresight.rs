//! What a draft model foresees of a prompt: how the text goes on, and where one has to look in it. What
//! the draft-based methods (arXiv 2506.08373) share.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use whit_kernels::op::{self, Host};

use super::gaze::Gaze;
use super::{DraftModel, Kind, Knob, Knobs, Look, MethodError, ModelFacts, Need, Paper, Prompt, Value};
use crate::generate::cache::{CacheShape, KvCache};
use crate::generate::forward::{Span, forward};
use crate::nn::decoder::Decoder;

/// Tokens of a prompt that one pass of the draft model reads.
const CHUNK: usize = 512;

/// The paper that these methods are from.
pub const PAPER: Paper = Paper {
    title: "Draft-based Approximate Inference for LLMs",
    authors: "Kevin Galim, Ethan Ewer, Wonjun Kang, Minjae Lee, Hyung Il Koo, Kangwook Lee",
    year: 2025,
    arxiv: "2506.08373",
};

/// What they need.
pub const NEED: Need = Need::DraftModel("a smaller one of the same family, with the same tokenizer");

/// The knob for a draft model that fails.
pub const ON_DRAFT_ERROR: Knob = Knob {
    name: "on-draft-error",
    kind: Kind::Choice { options: &["fail", "dense"] },
    default: Value::Choice("fail"),
    off: None,
    help: "if the draft fails on a prompt: fail too, or go on without dropping anything",
};

/// A draft model, and the method that asks it.
#[derive(Clone, Debug)]
pub struct Foresight {
    method: &'static str,
    draft: DraftModel,
    forgiving: bool,
}

impl Foresight {
    /// The draft model beside `model`, for the method with these knobs.
    ///
    /// # Errors
    /// If there is none, or it has another vocabulary.
    pub fn new(knobs: &Knobs, model: &ModelFacts) -> Result<Self, MethodError> {
        let method = knobs.spec().id;
        let draft = model.draft_model(method)?.clone();
        Ok(Self { method, draft, forgiving: knobs.choice(ON_DRAFT_ERROR.name) == "dense" })
    }

    /// The layer from which on the draft's attention counts, by the share of its layers in `knob`.
    ///
    /// # Errors
    /// If no layer is left.
    pub fn first_layer(&self, knobs: &Knobs, knob: &'static str) -> Result<usize, MethodError> {
        let first = (knobs.float(knob) * self.draft.facts.layers as f64) as usize;
        let layers = self.draft.facts.layers;
        match first < layers {
            true => Ok(first),
            false => Err(knobs.unfit(knob, format!("the draft has {layers} layers, and none is left"))),
        }
    }

    /// The layer at half the depth, from which on the paper looks.
    pub fn middle_layer(&self) -> usize {
        self.draft.facts.layers / 2
    }

    /// What to do without an answer of the draft: nothing, if that is wanted.
    ///
    /// # Errors
    /// The draft's own, if it is not.
    pub fn forgive<T>(&self, answer: Result<Option<T>, MethodError>) -> Result<Option<T>, MethodError> {
        if self.forgiving { Ok(answer.unwrap_or(None)) } else { answer }
    }

    /// Reads `prompt`, with a `gaze` on its last tokens if there is one.
    ///
    /// # Errors
    /// If the draft model cannot read so many tokens, or loses its way.
    pub fn read(&self, prompt: &[u32], gaze: Option<&mut Gaze>) -> Result<Reader, MethodError> {
        let mut reader = self.reader(prompt.len())?;
        let watched = gaze.as_ref().map_or(1, |gaze| gaze.window).min(prompt.len());
        let (before, last) = prompt.split_at(prompt.len() - watched);
        for ids in before.chunks(CHUNK) {
            reader.pass(ids, None)?;
        }
        reader.pass(last, gaze)?;
        Ok(reader)
    }

    fn reader(&self, tokens: usize) -> Result<Reader, MethodError> {
        let decoder = Arc::clone(self.draft.decoder(self.method)?);
        let config = decoder.config();
        if tokens > config.max_positions {
            return Err(self.failed(&format!("it reads {} tokens and not {tokens}", config.max_positions)));
        }
        let shape =
            CacheShape { layers: config.layers, kv_heads: config.kv_heads, head_dim: config.head_dim };
        let cache = KvCache::new(shape, tokens);
        Ok(Reader { foresight: self.clone(), decoder, cache, length: tokens, last: Vec::new() })
    }

    fn failed(&self, reason: &str) -> MethodError {
        MethodError::Failed { method: self.method, reason: format!("the draft model failed: {reason}") }
    }
}

/// A draft model that has read a prompt.
#[derive(Debug)]
pub struct Reader {
    foresight: Foresight,
    decoder: Arc<Decoder>,
    cache: KvCache,
    /// Tokens of the prompt.
    length: usize,
    /// The hidden state of the last token.
    last: Vec<f32>,
}

impl Reader {
    /// Goes on with the text for up to `count` tokens, the likeliest each time, or up to a token that ends
    /// it, which is the last one then. A `gaze` watches every token but the last.
    ///
    /// # Errors
    /// If the draft model loses its way.
    pub fn write(
        &mut self,
        count: usize,
        stop: &[u32],
        mut gaze: Option<&mut Gaze>,
    ) -> Result<Vec<u32>, MethodError> {
        let room = self.decoder.config().max_positions - self.cache.position() + 1;
        let mut tokens: Vec<u32> = Vec::new();
        while tokens.len() < count.min(room) {
            if let Some(&token) = tokens.last() {
                self.pass(&[token], gaze.as_deref_mut())?;
            }
            let next = self.next();
            tokens.push(next);
            if stop.contains(&next) {
                break;
            }
        }
        Ok(tokens)
    }

    /// The likeliest next token.
    fn next(&self) -> u32 {
        let hidden = op::tensor(Host::new([1, self.last.len()], self.last.clone()));
        let logits = op::host(self.decoder.logits(hidden));
        let better = |best: usize, at: usize| if logits.data()[at] > logits.data()[best] { at } else { best };
        (0..logits.width()).fold(0, better) as u32
    }

    fn pass(&mut self, ids: &[u32], gaze: Option<&mut Gaze>) -> Result<(), MethodError> {
        let mut span = Span::causal(&mut self.cache, ids.to_vec(), self.length as u32);
        span.look = gaze.map(|gaze| gaze as &mut dyn Look);
        let hidden = op::host(forward(&self.decoder, vec![span])?);
        self.last = hidden.data()[(ids.len() - 1) * hidden.width()..].to_vec();
        match self.last.iter().all(|value| value.is_finite()) {
            true => Ok(()),
            false => Err(self.foresight.failed("its hidden states are not finite")),
        }
    }
}

/// The tokens of a prompt that have to stay: those that may not be cut, and the first if `first`.
pub fn uncut(prompt: &Prompt<'_>, first: bool) -> Vec<usize> {
    let may_go = |token: usize| prompt.editable.iter().any(|part| part.contains(&token));
    (0..prompt.ids.len()).filter(|&token| first && token == 0 || !may_go(token)).collect()
}

/// What was found for the latest prompts, so that asking again costs nothing.
#[derive(Debug)]
pub struct Recent<V>(Mutex<VecDeque<(Vec<u32>, V)>>);

/// Prompts that are remembered.
const REMEMBERED: usize = 16;

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<V: Clone> Recent<V> {
    /// What was kept for these tokens.
    pub fn get(&self, tokens: &[u32]) -> Option<V> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().find(|(known, _)| known == tokens).map(|(_, value)| value.clone())
    }

    /// Keeps a value, in the place of the oldest.
    pub fn keep(&self, tokens: Vec<u32>, value: V) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.truncate(REMEMBERED - 1);
        entries.push_front((tokens, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::find;
    use crate::methods::testing::*;

    fn foresight(draft: &Arc<Decoder>) -> Foresight {
        let knobs = Knobs::defaults(find("spec-pc").unwrap());
        Foresight::new(&knobs, &facts(&model(1, 64, 1), draft)).unwrap()
    }

    #[test]
    fn the_gaze_is_the_greatest_weighted_attention() {
        let draft = model(4, 1024, 2);
        let (ids, window) = (prompt(600), 16);
        let mut gaze = Gaze::new(window, 2, ids.len());
        let mut reader = foresight(&draft).read(&ids, Some(&mut gaze)).unwrap();
        let read = gaze.scores.clone();
        let text = reader.write(3, &[], Some(&mut gaze)).unwrap();
        assert_eq!(text, plainly(&draft, &ids, 3));
        let all = [&ids[..], &text].concat();
        let capture = Capture::of(&draft, &all);
        let greatest = |queries: std::ops::Range<usize>, token: usize| {
            let mut most = 0.0_f64;
            for (layer, head) in (2..4).flat_map(|layer| (0..4).map(move |head| (layer, head))) {
                for query in queries.clone() {
                    let weight = if query < 600 { (query - 584) as f64 / 15.0 } else { 1.0 };
                    let attention = capture.weights(layer, head, query);
                    most = most.max(weight * attention.get(token).copied().unwrap_or(0.0));
                }
            }
            most as f32
        };
        for token in [0, 1, 57, 300, 583, 584, 590, 599] {
            assert!((read[token] - greatest(584..600, token)).abs() < 1e-5, "token {token}");
            // Two of the three written tokens were read.
            assert!((gaze.scores[token] - greatest(584..602, token)).abs() < 1e-5, "token {token}");
        }
    }

    #[test]
    fn a_draft_stops_where_the_text_ends_and_where_its_context_does() {
        let draft = model(1, 64, 3);
        let text = plainly(&draft, &prompt(20), 8);
        let write = |count, stop: &[u32]| {
            foresight(&draft).read(&prompt(20), None).unwrap().write(count, stop, None).unwrap()
        };
        let first = text.iter().position(|token| *token == text[3]).unwrap();
        assert_eq!(write(8, &[text[3]]), text[..=first]);
        assert_eq!(write(1000, &[]).len(), 45);
        let error = foresight(&draft).read(&prompt(65), None).unwrap_err().to_string();
        assert!(error.contains("64") && error.contains("65"), "{error}");
    }

    #[test]
    fn the_latest_prompts_are_remembered() {
        let recent = Recent::default();
        (0..20).for_each(|value| recent.keep(vec![value], value));
        assert_eq!((recent.get(&[3]), recent.get(&[4]), recent.get(&[19])), (None, Some(4), Some(19)));
    }
}
