//! One sequence on its way: what it was asked, what it has, and everything that only it owns.

use std::convert::Infallible;

use whit_kernels::attention::BitMatrix;

use super::GenerateError;
use super::cache::{CacheShape, KvCache};
use super::dictation::{Dictation, Heard};
use super::forward::Span;
use super::prompt::{self, Written};
use super::sampler::{Sampler, Sampling};
use super::trace::{self, Trace};
use super::watch::{Kept, Watch};
use crate::load::LoadError;
use crate::methods::{
    Accepted, Ahead, Exit, MethodError, Moment, PromptRows, Route, Stages, TokenTree, Verified,
};
use crate::nn::decoder::{Decoder, DecoderConfig};

/// What one sequence is asked to do.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The tokens to continue.
    pub prompt: Vec<u32>,
    /// The text that they came from, if methods may cut it.
    pub written: Option<Written>,
    /// The most tokens to add.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens that end the text; they are not part of it.
    pub stop_tokens: Vec<u32>,
    /// What is written instead of the model's choices, as far as it goes; see
    /// [`Scheduler::heard`](super::Scheduler::heard).
    pub dictation: Option<Dictation>,
    /// Whether to write down what methods do; see [`Scheduler::trace`](super::Scheduler::trace).
    pub traced: bool,
}

impl Request {
    /// A request to continue a text, everything else as it is by default.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn written(written: Written) -> Result<Self, LoadError> {
        Ok(Self { prompt: written.ids()?, written: Some(written), ..Self::default() })
    }
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended the text, or a stop string came up.
    Stop,
    /// The limit on new tokens, or of the model's context, was reached.
    Length,
    /// Somebody cancelled it.
    Cancelled,
}

impl Finish {
    /// The word for it in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What a step did for one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The sequence.
    pub id: usize,
    /// The tokens it gained.
    pub tokens: Vec<u32>,
    /// Set when it has ended.
    pub finish: Option<Finish>,
}

/// What a sequence has cost so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Tokens of the prompt before methods shortened it.
    pub original_tokens: usize,
    /// Tokens of the prompt that were read.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub new_tokens: usize,
    /// Forward passes after the prompt.
    pub decode_passes: usize,
    /// Tokens that went through the model in those passes, drafted ones included.
    pub decode_rows: usize,
    /// Seconds until the prompt was shortened and read and the first token chosen.
    pub prompt_seconds: f64,
    /// Those of them that methods took to shorten it.
    pub edit_seconds: f64,
    /// Seconds of all later passes.
    pub decode_seconds: f64,
    /// Bytes of the cache at the end.
    pub cache_bytes: usize,
    /// What the draft says it did.
    pub draft: Option<String>,
    /// What the owner of the attention pattern says it did.
    pub attention: Option<String>,
    /// What the owner of what is read behind the prompt says it did.
    pub lookahead: Option<String>,
    /// What the method that chooses experts says it did.
    pub experts: Option<String>,
    /// What the method that ends steps early says it did.
    pub depth: Option<String>,
}

impl Statistics {
    /// Adds the cost of another sequence that ran after this one.
    pub fn add(&mut self, other: &Self) {
        self.original_tokens += other.original_tokens;
        self.prompt_tokens += other.prompt_tokens;
        self.new_tokens += other.new_tokens;
        self.decode_passes += other.decode_passes;
        self.decode_rows += other.decode_rows;
        self.prompt_seconds += other.prompt_seconds;
        self.edit_seconds += other.edit_seconds;
        self.decode_seconds += other.decode_seconds;
        self.cache_bytes = self.cache_bytes.max(other.cache_bytes);
        self.draft = other.draft.clone().or(self.draft.take());
        self.attention = other.attention.clone().or(self.attention.take());
        self.lookahead = other.lookahead.clone().or(self.lookahead.take());
        self.experts = other.experts.clone().or(self.experts.take());
        self.depth = other.depth.clone().or(self.depth.take());
    }
}

/// A sequence in work.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: usize,
    pub(super) cache: KvCache,
    pub(super) finish: Option<Finish>,
    tokens: Vec<u32>,
    request: Request,
    limit: usize,
    /// The longest sequence that the model reads.
    context: usize,
    vocabulary: usize,
    sampler: Sampler,
    stages: Stages,
    /// What was seen of a decode step, until it is known which of its tokens are accepted.
    kept: Vec<Kept>,
    /// Up to which position rows are being computed again.
    correcting: usize,
    statistics: Statistics,
    pub(super) trace: Option<Box<Trace>>,
}

/// What a sequence puts into the next forward pass.
#[derive(Debug)]
pub(super) enum Work {
    /// Tokens of the prompt, whether they are its last, and whether a draft wants to see all their logits.
    Prompt { ids: Vec<u32>, last: bool, shown: bool },
    /// Tokens whose rows are computed again.
    Correct(Vec<u32>),
    /// The whole prompt, its tokens counted, with the text that is read behind it and forgotten again; and
    /// whether a draft wants to see the logits.
    Ahead { ids: Vec<u32>, prompt: usize, shown: bool },
    /// A draft to verify; its root is the newest token.
    Verify(TokenTree),
}

/// What a forward pass gave one sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output<'a> {
    /// Of the wanted rows. `[rows, vocabulary]`
    pub(super) logits: &'a [f32],
    /// Of all its tokens, after the final norm. `[tokens, width]`
    pub(super) hidden: &'a [f32],
    /// How long the pass took.
    pub(super) seconds: f64,
}

impl Work {
    /// How many tokens it is.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Prompt { ids, .. } | Self::Ahead { ids, .. } | Self::Correct(ids) => ids.len(),
            Self::Verify(tree) => tree.len(),
        }
    }

    /// Which of its rows need logits.
    pub(super) fn wanted(&self) -> std::ops::Range<usize> {
        match self {
            Self::Prompt { ids, shown: true, .. } => 0..ids.len(),
            Self::Prompt { ids, last: true, .. } => ids.len() - 1..ids.len(),
            Self::Ahead { prompt, shown: true, .. } => 0..prompt - 1,
            Self::Prompt { .. } | Self::Ahead { .. } | Self::Correct(_) => 0..0,
            Self::Verify(tree) => 0..tree.len(),
        }
    }
}

impl Sequence {
    pub(super) fn new(
        id: usize,
        mut request: Request,
        mut stages: Stages,
        model: &Decoder,
    ) -> Result<Self, GenerateError> {
        let config = model.config();
        let mut trace = request.traced.then(|| Box::new(Trace::new(config.layers)));
        let cut = prompt::edit(&mut request, &mut stages.prompt_edits, trace.as_deref_mut())?;
        check(&request, config)?;
        if let Some(draft) = &mut stages.draft {
            draft.meet(model)?;
        }
        let shape =
            CacheShape { layers: config.layers, kv_heads: config.kv_heads, head_dim: config.head_dim };
        let room = config.max_positions - request.prompt.len() + 1;
        let max_tokens = request.max_tokens.min(room);
        if let Some(trace) = &mut trace {
            trace.begin(&request.prompt, request.prompt.len() + max_tokens);
        }
        Ok(Self {
            id,
            cache: KvCache::new(shape, request.prompt.len() + max_tokens.min(RESERVED) + DRAFT_ROOM),
            finish: (max_tokens == 0).then_some(Finish::Length),
            tokens: request.prompt.clone(),
            limit: request.prompt.len() + max_tokens,
            context: config.max_positions,
            vocabulary: config.vocab_size,
            sampler: Sampler::new(request.sampling.clone(), &request.prompt)
                .with_dictation(request.dictation.take()),
            statistics: Statistics {
                original_tokens: cut.original,
                prompt_tokens: request.prompt.len(),
                prompt_seconds: cut.seconds,
                edit_seconds: cut.seconds,
                ..Statistics::default()
            },
            request,
            stages,
            kept: Vec::new(),
            correcting: 0,
            trace,
        })
    }

    /// What goes through the model for `work`.
    pub(super) fn span(&mut self, work: &Work) -> Span<'_> {
        let trace = self.trace.as_deref_mut();
        if let Work::Ahead { ids, prompt, .. } = work {
            let span = Span::causal(&mut self.cache, ids.clone(), *prompt as u32);
            let look = self.stages.lookahead.as_deref_mut().map(|ahead| ahead as _);
            return Span { look, trace, ..span };
        }
        let base = self.cache.position();
        // The length that the sequence reaches in this pass, with all of its prompt.
        let length = self.tokens.len() as u32;
        let prompt = self.request.prompt.len();
        let (moment, remaining) = match work {
            Work::Prompt { last: true, .. } => (Moment::Prompt, 0),
            Work::Prompt { ids, .. } | Work::Ahead { ids, .. } => (Moment::Chunk, prompt - base - ids.len()),
            Work::Verify(_) | Work::Correct(_) => (Moment::Step, 0),
        };
        let policies = &mut self.stages.kv_policies[..];
        self.kept.clear();
        let watch = Watch { policies, moment, prompt, remaining, tokens: work.len(), kept: &mut self.kept };
        let route = self.stages.route.as_deref_mut().map(|route| route as &mut dyn Route);
        let cache = &mut self.cache;
        let tree = match work {
            // Rows that are computed again were seen before.
            Work::Correct(ids) | Work::Ahead { ids, .. } => {
                return Span { route, ..Span::causal(cache, ids.clone(), length) };
            }
            Work::Prompt { ids, .. } => {
                let watch = watch.is_needed().then_some(watch);
                return Span { watch, route, trace, ..Span::causal(cache, ids.clone(), length) };
            }
            Work::Verify(tree) => tree,
        };
        Span {
            cache,
            ids: tree.tokens().to_vec(),
            positions: tree.depths().iter().map(|&depth| (base + depth) as u32).collect(),
            length,
            tree: (tree.len() > 1).then(|| mask(tree)),
            watch: watch.is_needed().then_some(watch),
            policy: self.stages.attention.as_deref_mut().map(|policy| policy as _),
            look: None,
            route,
            exit: self.stages.exit.as_deref_mut().map(|exit| exit as &mut dyn Exit),
            trace,
        }
    }

    /// What the sequence needs computed next, at most `chunk` tokens of a prompt at a time.
    pub(super) fn work(&mut self, chunk: usize) -> Result<Work, GenerateError> {
        if let Some(ids) = self.stale(chunk) {
            return Ok(Work::Correct(ids));
        }
        if self.statistics.new_tokens == 0 {
            let shown = self.stages.draft.as_ref().is_some_and(|draft| draft.wants_prompt());
            if let Some(ids) = self.ahead()? {
                return Ok(Work::Ahead { ids, prompt: self.tokens.len(), shown });
            }
            let pending = &self.tokens[self.cache.position()..];
            let ids = pending[..pending.len().min(chunk)].to_vec();
            return Ok(Work::Prompt { last: ids.len() == pending.len(), shown, ids });
        }
        let room = self.limit - self.tokens.len() - 1;
        let tree = match &mut self.stages.draft {
            Some(draft) if room > 0 => draft.propose(&self.tokens, room)?,
            _ => TokenTree::root(self.tokens[self.cache.position()]),
        };
        Ok(Work::Verify(tree))
    }

    /// The next tokens, at most `chunk`, whose rows are to be computed again.
    fn stale(&mut self, chunk: usize) -> Option<Vec<u32>> {
        let position = self.cache.position();
        let policy = self.stages.attention.as_mut().filter(|_| self.statistics.new_tokens > 0)?;
        if position > self.correcting {
            self.cache.truncate(policy.stale(position)?);
            self.correcting = position;
        }
        let first = self.cache.position();
        let last = self.correcting.min(first + chunk);
        (first < last).then(|| self.tokens[first..last].to_vec())
    }

    /// The whole prompt with a text behind it, if there is one to be read before all else.
    fn ahead(&mut self) -> Result<Option<Vec<u32>>, MethodError> {
        let Some(ahead) = self.stages.lookahead.as_mut().filter(|_| self.cache.position() == 0) else {
            return Ok(None);
        };
        let room = self.limit.min(self.context) - self.tokens.len();
        let text = ahead.tokens(&Ahead { prompt: &self.tokens, room, stop: &self.request.stop_tokens })?;
        Ok(text.map(|text| [&self.tokens[..], &text].concat()))
    }

    /// Takes what the pass gave; returns the tokens gained.
    ///
    /// # Errors
    /// If a method fails.
    pub(super) fn commit(&mut self, work: &Work, output: Output<'_>) -> Result<Vec<u32>, MethodError> {
        let Output { logits, hidden, seconds } = output;
        match work {
            Work::Prompt { ids, last, shown } => {
                self.statistics.prompt_seconds += seconds;
                if let Some(draft) = &mut self.stages.draft {
                    draft.prompt(&PromptRows { ids, logits: if *shown { logits } else { &[] }, hidden });
                }
                Ok(if *last { self.first(&logits[logits.len() - self.vocabulary..]) } else { Vec::new() })
            }
            Work::Correct(_) => {
                self.statistics.decode_seconds += seconds;
                Ok(Vec::new())
            }
            Work::Ahead { ids, prompt, shown } => {
                self.statistics.prompt_seconds += seconds;
                let kept = prompt - 1;
                self.cache.truncate(kept);
                if let Some(trace) = &mut self.trace {
                    trace.forget(kept);
                }
                if let Some(draft) = &mut self.stages.draft {
                    let hidden = &hidden[..kept * (hidden.len() / ids.len())];
                    let logits = if *shown { logits } else { &[] };
                    draft.prompt(&PromptRows { ids: &ids[..kept], logits, hidden });
                }
                Ok(Vec::new())
            }
            Work::Verify(tree) => {
                self.statistics.decode_seconds += seconds;
                self.statistics.decode_passes += 1;
                self.statistics.decode_rows += tree.len();
                self.accept(tree, output)
            }
        }
    }

    /// Chooses the token after the prompt.
    fn first(&mut self, logits: &[f32]) -> Vec<u32> {
        let token = self.sampler.choose(logits);
        let gained = self.gain(vec![token]);
        if let Some(trace) = &mut self.trace {
            trace.first(&gained);
        }
        gained
    }

    fn accept(&mut self, tree: &TokenTree, output: Output<'_>) -> Result<Vec<u32>, MethodError> {
        let Output { logits, hidden, seconds } = output;
        let vocabulary = self.vocabulary;
        let sampler = &mut self.sampler;
        let mut choose = |node: usize| sampler.choose(&logits[node * vocabulary..(node + 1) * vocabulary]);
        let accepted = match &mut self.stages.accept {
            Some(rule) => rule.accept(tree, logits, &mut choose),
            None => match tree.walk(|node| Ok::<_, Infallible>(choose(node))) {
                Ok(accepted) => accepted,
                Err(never) => match never {},
            },
        };
        self.cache.keep_of_last(tree.len(), &accepted.path);
        for kept in self.kept.drain(..) {
            let (layer, policies) = (kept.layer(), &mut self.stages.kv_policies);
            let cache = self.cache.layer_mut(layer);
            let before = trace::positions(self.trace.as_deref(), cache);
            kept.accept(policies, &accepted.path, self.request.prompt.len(), cache)?;
            trace::revised(self.trace.as_deref_mut(), layer, before, policies, cache);
        }
        if let Some(draft) = &mut self.stages.draft {
            draft.learn(&Verified { tree, logits, hidden, accepted: &accepted, seconds });
        }
        let Accepted { path, next } = &accepted;
        let mut gained: Vec<u32> = path[1..].iter().map(|&node| tree.tokens()[node]).collect();
        gained.push(*next);
        let gained = self.gain(gained);
        if let Some(trace) = &mut self.trace {
            trace.verified(tree, &accepted, &gained);
        }
        Ok(gained)
    }

    /// Appends tokens up to the first that ends the text and up to the limit.
    fn gain(&mut self, mut gained: Vec<u32>) -> Vec<u32> {
        let stop = gained.iter().position(|token| self.request.stop_tokens.contains(token));
        if let Some(stop) = stop {
            gained.truncate(stop);
            self.finish = Some(Finish::Stop);
        }
        let room = self.limit - self.tokens.len();
        if gained.len() >= room {
            gained.truncate(room);
            self.finish = Some(Finish::Length);
        }
        self.statistics.new_tokens += gained.len();
        self.tokens.extend(&gained);
        gained
    }

    /// Takes what was heard, if the text was dictated.
    pub(super) fn heard(&mut self) -> Option<Vec<Heard>> {
        self.sampler.take_dictation().map(Dictation::heard)
    }

    pub(super) fn statistics(&self) -> Statistics {
        let draft = self.stages.draft.as_ref().map(|draft| draft.report());
        let attention = self.stages.attention.as_ref().map(|policy| policy.report());
        let lookahead = self.stages.lookahead.as_ref().map(|ahead| ahead.report());
        let experts = self.stages.route.as_ref().map(|route| route.report());
        let depth = self.stages.exit.as_ref().map(|exit| exit.report());
        let cache_bytes = self.cache.bytes();
        Statistics { cache_bytes, draft, attention, lookahead, experts, depth, ..self.statistics.clone() }
    }
}

/// Rows for which a cache has room from the start; longer answers let it grow.
const RESERVED: usize = 4096;

/// Rows that a draft may need for a moment.
const DRAFT_ROOM: usize = 96;

fn mask(tree: &TokenTree) -> BitMatrix {
    let words = tree.len().div_ceil(64);
    let bits = tree.mask();
    BitMatrix::from_fn(tree.len(), tree.len(), |node, seen| {
        bits[node * words + seen / 64] >> (seen % 64) & 1 == 1
    })
}

fn check(request: &Request, config: &DecoderConfig) -> Result<(), GenerateError> {
    request.sampling.check()?;
    let tokens = request.prompt.len();
    if tokens == 0 {
        return Err(GenerateError::EmptyPrompt);
    }
    if tokens > config.max_positions {
        return Err(GenerateError::PromptTooLong { tokens, limit: config.max_positions });
    }
    let unknown = request.prompt.iter().find(|&&token| token as usize >= config.vocab_size);
    match unknown {
        Some(&token) => Err(GenerateError::UnknownToken { token, vocabulary: config.vocab_size }),
        None => Ok(()),
    }
}
