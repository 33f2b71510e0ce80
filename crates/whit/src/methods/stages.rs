//! The moments at which the loops call methods, one small trait each. The state behind a trait
//! belongs to one sequence and is dropped with it; nothing is stored on the model.
//!
//! The text loop calls them all.

use std::fmt::{self, Debug};
use std::ops::Range;

use serde::Serialize;
use whit_kernels::attention::Call;

use super::reducers::{Looks, TokenMap, Tokens};
use super::spec::names;
use super::{Accepted, MethodError, Moved, TokenTree};
use crate::generate::cache::HeadRows;
use crate::generate::prompt::Written;
use crate::nn::attention::Site;
use crate::nn::decoder::Decoder;
use crate::shrink::{Block, Outcome, ShrinkError, Subject};

names! {
    /// A moment at which methods are called, in the order of a request.
    StageKind {
        PromptEdit = "prompt-edit", "Before the prompt is read.";
        Lookahead = "lookahead", "Before the prompt is read, to read drafted text behind it; in each layer, to choose what stays.";
        KvPolicy = "kv-policy", "After a layer has read a chunk of the prompt, and between decode steps.";
        AttnPolicy = "attn-policy", "Before the attention of a layer.";
        Route = "route", "Between the router of a block of experts and the experts.";
        Exit = "exit", "Between two layers of a decode step.";
        Draft = "draft", "Before a decode step, to propose tokens; after it, to learn.";
        Accept = "accept", "After the verification of a draft.";
        AttnScale = "attn-scale", "In the attention of a text encoder, before the softmax.";
        TokenReducer = "token-reducer", "Between the attention of an encoder's block and its feed-forward part.";
        WeightEdit = "weight-edit", "Offline: `whit shrink` goes through the model's blocks and writes new weights.";
    }
}

/// The prompt as a [`PromptEdit`] sees it.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    /// The text it was made from, with the parts that may be cut, if it came as text.
    pub written: Option<&'a Written>,
    /// Its tokens.
    pub ids: &'a [u32],
    /// The tokens that may be cut; the template stays whole.
    pub editable: &'a [Range<usize>],
}

/// A prompt after a [`PromptEdit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edited {
    /// Nothing was worth cutting.
    Unchanged,
    /// The kept tokens by index, in ascending order; all that may not be cut are among them.
    Kept(Vec<usize>),
    /// New texts for the parts of the written prompt that may be cut, one for each, to be tokenized again.
    Parts(Vec<String>),
}

/// Shortens the prompt before it is read. A method that works on text leaves a prompt that came without
/// one as it is.
pub trait PromptEdit: Debug + Send {
    /// Chooses what stays of the prompt.
    ///
    /// # Errors
    /// If the prompt does not fit the method's knobs.
    fn edit(&mut self, prompt: &Prompt<'_>) -> Result<Edited, MethodError>;

    /// Of the last edit that gave [`Edited::Parts`], the ascending bytes of each part that stayed; empty where
    /// the method cannot say.
    fn stayed(&self) -> &[Vec<Range<usize>>] {
        &[]
    }
}

/// Carries out the attention of one pass, layer by layer, in the place of the plain one.
pub trait Look: Debug + Send {
    /// The output of one layer's attention: `[queries, heads, head_dim]`.
    ///
    /// # Errors
    /// If the call does not fit the method's knobs.
    fn attend(&mut self, site: &Site, call: &Call<'_>) -> Result<Vec<f32>, MethodError>;

    /// May change the cached rows of that layer, one entry for each key-value head, afterwards.
    ///
    /// # Errors
    /// If the cache does not fit the method's knobs.
    fn settle(&mut self, site: &Site, cache: &mut [HeadRows]) -> Result<(), MethodError> {
        let _ = (site, cache);
        Ok(())
    }
}

/// A prompt that is about to be read.
#[derive(Clone, Copy, Debug)]
pub struct Ahead<'a> {
    /// Its tokens.
    pub prompt: &'a [u32],
    /// The most tokens that the answer may have and the model can read behind the prompt.
    pub room: usize,
    /// Tokens that end the text.
    pub stop: &'a [u32],
}

/// Lets the model read drafted text behind the prompt, to see what it will look at: one pass over all of it,
/// whose attention is this method's ([`Look`]). The rows of the drafted text and of the prompt's last token
/// are then forgotten, and the last token is read again on what is left, as the first of the plain passes.
pub trait Lookahead: Look {
    /// The text to read behind the prompt, which may be empty; `None` reads the prompt as without the method.
    ///
    /// # Errors
    /// If there is no such text.
    fn tokens(&mut self, ahead: &Ahead<'_>) -> Result<Option<Vec<u32>>, MethodError>;

    /// What it did for this sequence, in words, for the report.
    fn report(&self) -> String;
}

/// What a [`KvPolicy`] is called after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A layer has read a part of the prompt, and more of the prompt is to come.
    Chunk,
    /// A layer has read the last part of the prompt.
    Prompt,
    /// The tokens of a decode step were accepted.
    Step,
}

/// What a [`KvPolicy`] asks of the attention kernel in one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// The sum of attention weights that each key received.
    pub column_sums: bool,
    /// The attention weights of so many last queries of the prompt, and of every decoded one.
    pub last_rows: usize,
}

impl Observation {
    /// Both together.
    pub fn union(self, other: Self) -> Self {
        Self {
            column_sums: self.column_sums || other.column_sums,
            last_rows: self.last_rows.max(other.last_rows),
        }
    }
}

/// What was seen of a layer's attention: of the queries of one pass, as far as they were accepted. A part
/// that nobody asked for is empty. Heads of different lengths begin with the same column; the columns
/// behind a shorter one's rows are zero.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The index of the layer.
    pub layer: usize,
    /// What was just done.
    pub moment: Moment,
    /// The number of query heads; so many of them in turn share a key-value head.
    pub heads: usize,
    /// Tokens of the prompt: rows of later positions are the answer's.
    pub prompt: usize,
    /// Rows of the longest key-value head.
    pub rows: usize,
    /// Attention received by each key. `[heads, rows]`
    pub column_sums: &'a [f32],
    /// How many queries `last_rows` holds; of a chunk that is not the prompt's last, those that the end of
    /// the prompt will still ask for.
    pub queries: usize,
    /// Weights of the last queries. `[heads, queries, rows]`
    pub last_rows: &'a [f32],
}

/// Evicts or merges rows of the key-value cache. It is not called for layers with a sliding window, whose
/// rows the kernel tells apart by where they lie.
pub trait KvPolicy: Debug + Send {
    /// What it wants to see of the attention of `layer`.
    fn observe(&self, layer: usize, moment: Moment) -> Observation;

    /// Whether it is also called between decode steps.
    fn lasts(&self) -> bool;

    /// Is shown what it asked for of one pass in one layer, and may gather, evict or merge the rows of that
    /// layer, head by head. `cache` has one entry for each key-value head. While the prompt is read, it is
    /// called inside the pass, layer by layer, so that no more than one layer need be held whole; a decode
    /// step is shown once its tokens are accepted, without the rows of those that were not.
    ///
    /// # Errors
    /// If the cache does not fit the method's knobs.
    fn revise(&mut self, seen: &Observed<'_>, cache: &mut [HeadRows]) -> Result<(), MethodError>;

    /// For each head the rows that the last revision merged into others, numbered as they lay before it.
    fn moved(&self) -> &[Vec<Moved>] {
        &[]
    }
}

/// One layer of a decode step, before its attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looking {
    /// The index of the layer.
    pub layer: usize,
    /// The rows that every head of its cache holds, with the new ones, which are the last.
    pub rows: usize,
    /// How many of them are new: 1, or the nodes of a draft, its root first.
    pub new: usize,
}

/// Which keys the queries of a decode step read in one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading<'a> {
    /// All of them.
    All,
    /// All of them, and the scores are handed to [`AttnPolicy::scored`].
    AllScored,
    /// For each key-value head or each query head the ascending numbers of the rows that it reads; all where
    /// there are none. With more than one new row, each list ends with all new ones: the draft's mask goes
    /// on saying which node sees which.
    Rows(&'a [Option<Vec<u32>>]),
}

/// Chooses which keys are read. It is not asked about layers with a sliding window, which are read whole.
pub trait AttnPolicy: Debug + Send {
    /// Chooses for one layer of a decode step.
    fn read(&mut self, looking: &Looking) -> Reading<'_>;

    /// Is shown the scores of the first new row's query, as they enter the softmax, in a layer that was read
    /// with [`Reading::AllScored`]. `[heads, rows]`
    fn scored(&mut self, looking: &Looking, scores: &[f32]);

    /// The first position from which on cached rows are to be computed again, reading all keys, before the
    /// decode step of the token at `position`.
    fn stale(&mut self, position: usize) -> Option<usize> {
        let _ = position;
        None
    }

    /// What it did for this sequence, in words, for the report.
    fn report(&self) -> String;
}

/// Decides between a router and its experts which of them the tokens of a sequence read.
pub trait Route: Debug + Send {
    /// Is shown the gates of layer `layer`, `[tokens, experts]`. Whether experts whose gate is zero are
    /// left out; the result is the same.
    fn route(&mut self, layer: usize, gates: &[f32], experts: usize) -> bool;

    /// What it did for this sequence, in words, for the report.
    fn report(&self) -> String;
}

/// A decode step in front of one of its layers.
pub struct Halfway<'a> {
    /// How many layers are behind it, and how many the model has.
    pub layers: [usize; 2],
    /// How many tokens go through the layers together: 1, or the nodes of a draft.
    pub tokens: usize,
    /// Their states. `[tokens, width]`
    pub hidden: &'a [f32],
    /// Gives what the model would say if this were its end. `[tokens, vocabulary]`
    pub logits: &'a dyn Fn() -> Vec<f32>,
}

/// Ends decode steps before the model's last layer. The layers that are skipped are given keys and values of
/// the state at the end, and the tokens are chosen from it.
pub trait Exit: Debug + Send {
    /// Whether it wants to see the step in front of layer `layer`.
    fn looks(&self, layer: usize) -> bool;

    /// Whether all tokens of the step go no further.
    fn leaves(&mut self, halfway: &Halfway<'_>) -> bool;

    /// What it did for this sequence, in words, for the report.
    fn report(&self) -> String;
}

/// A part of the prompt that the target model has read.
#[derive(Clone, Copy, Debug)]
pub struct PromptRows<'a> {
    /// Its tokens.
    pub ids: &'a [u32],
    /// The target model's logits at each of them, if [`Draft::wants_prompt`]; else empty. `[ids, vocabulary]`
    pub logits: &'a [f32],
    /// The hidden states after the final norm. `[ids, width]`
    pub hidden: &'a [f32],
}

/// A draft after its verification.
#[derive(Clone, Copy, Debug)]
pub struct Verified<'a> {
    /// What was proposed.
    pub tree: &'a TokenTree,
    /// The target model's logits at each node. `[nodes, vocabulary]`
    pub logits: &'a [f32],
    /// The target model's hidden states after the final norm at each node. `[nodes, width]`
    pub hidden: &'a [f32],
    /// What was accepted.
    pub accepted: &'a Accepted,
    /// How long the forward pass took.
    pub seconds: f64,
}

/// Proposes tokens, several at once, that one forward pass of the target model verifies.
pub trait Draft: Debug + Send {
    /// Whether the logits of all tokens of the prompt are wanted, which costs their computation.
    fn wants_prompt(&self) -> bool {
        false
    }

    /// Meets the target model, once, before anything else.
    ///
    /// # Errors
    /// If the draft was made for another model.
    fn meet(&mut self, target: &Decoder) -> Result<(), MethodError> {
        let _ = target;
        Ok(())
    }

    /// Is shown each part of the prompt when the target model has read it.
    fn prompt(&mut self, rows: &PromptRows<'_>) {
        let _ = rows;
    }

    /// Proposes a tree whose root is the last of `committed`, at most `room` levels deep below the root.
    ///
    /// # Errors
    /// If the proposal is no tree.
    fn propose(&mut self, committed: &[u32], room: usize) -> Result<TokenTree, MethodError>;

    /// Learns from a verified proposal.
    fn learn(&mut self, verified: &Verified<'_>);

    /// What it did for this sequence, in words, for the report.
    fn report(&self) -> String;
}

/// Decides which drafted tokens are accepted. Without one, the rule is [`TokenTree::walk`], which is exact.
pub trait Accept: Debug + Send {
    /// Walks the tree. `choose` gives the target model's own token at a node, one draw for each call;
    /// `logits` are the target model's. `[nodes, vocabulary]`
    fn accept(&mut self, tree: &TokenTree, logits: &[f32], choose: &mut dyn FnMut(usize) -> u32) -> Accepted;
}

/// Says what the scores of a text encoder's attention are divided by.
pub trait AttnScale: Debug + Send {
    /// The temperature of a layer; 1 leaves its scores as they are.
    fn temperature(&self, layer: usize) -> f32;
}

/// Makes the tokens of one image fewer inside an encoder. All images of a batch must be left with the same number.
pub trait TokenReducer: Debug + Send {
    /// Whether tokens go in this block, where an image has so many patches.
    fn acts(&self, layer: usize, patches: usize) -> bool;

    /// What it wants to see of the blocks in which it acts.
    fn looks(&self) -> Looks;

    /// Whether attention counts each token as often as it has patches: `softmax(q k + ln size)`.
    fn proportional(&self) -> bool;

    /// The reduction in a block in which it acts; none leaves the tokens as they are.
    ///
    /// # Errors
    /// If the tokens do not fit the method's knobs.
    fn reduce(&mut self, tokens: &Tokens<'_>) -> Result<Option<TokenMap>, MethodError>;
}

/// Changes the weights of a model, offline and for good. Its state belongs to one run of
/// [`shrink`](crate::shrink).
pub trait WeightEdit: Debug + Send {
    /// Looks at the whole model before the first block is changed.
    ///
    /// # Errors
    /// If the model does not suit the method.
    fn survey(&mut self, subject: &Subject<'_>) -> Result<(), ShrinkError> {
        let _ = subject;
        Ok(())
    }

    /// Changes one block. Blocks come in order, each with the inputs that the changed ones before it give.
    ///
    /// # Errors
    /// If a matrix does not suit the method's knobs.
    fn edit(&mut self, block: &mut Block<'_>) -> Result<(), ShrinkError>;

    /// Has the last word on the whole model: its configuration, and tensors outside the blocks.
    ///
    /// # Errors
    /// If the model cannot be written so.
    fn finish(&mut self, outcome: &mut Outcome) -> Result<(), ShrinkError> {
        let _ = outcome;
        Ok(())
    }
}

/// One stage of a method, with its state for one sequence.
#[derive(Debug)]
pub enum Stage {
    /// See [`PromptEdit`].
    PromptEdit(Box<dyn PromptEdit>),
    /// See [`Lookahead`].
    Lookahead(Box<dyn Lookahead>),
    /// See [`KvPolicy`].
    KvPolicy(Box<dyn KvPolicy>),
    /// See [`AttnPolicy`].
    AttnPolicy(Box<dyn AttnPolicy>),
    /// See [`Route`].
    Route(Box<dyn Route>),
    /// See [`Exit`].
    Exit(Box<dyn Exit>),
    /// See [`Draft`].
    Draft(Box<dyn Draft>),
    /// See [`Accept`].
    Accept(Box<dyn Accept>),
    /// See [`AttnScale`].
    AttnScale(Box<dyn AttnScale>),
    /// See [`TokenReducer`].
    TokenReducer(Box<dyn TokenReducer>),
    /// See [`WeightEdit`].
    WeightEdit(Box<dyn WeightEdit>),
}

/// What the loops call for one sequence. Empty, it is plain decoding.
#[derive(Debug, Default)]
pub struct Stages {
    /// Called one after the other, each on what the one before left.
    pub prompt_edits: Vec<Box<dyn PromptEdit>>,
    /// The owner of what is read behind the prompt.
    pub lookahead: Option<Box<dyn Lookahead>>,
    /// Called one after the other, each on what the one before left.
    pub kv_policies: Vec<Box<dyn KvPolicy>>,
    /// The owner of the attention pattern.
    pub attention: Option<Box<dyn AttnPolicy>>,
    /// The owner of the experts.
    pub route: Option<Box<dyn Route>>,
    /// The owner of the depth.
    pub exit: Option<Box<dyn Exit>>,
    /// The owner of the draft.
    pub draft: Option<Box<dyn Draft>>,
    /// The owner of the acceptance.
    pub accept: Option<Box<dyn Accept>>,
    /// The temperatures of a text encoder's attention.
    pub scale: Option<Box<dyn AttnScale>>,
    /// The owner of the tokens inside an encoder.
    pub reducer: Option<Box<dyn TokenReducer>>,
    /// Called block by block, each on what the one before left; only [`shrink`](crate::shrink) calls them.
    pub weight_edits: Vec<Box<dyn WeightEdit>>,
}

impl Stages {
    /// Adds the stages of another method behind these.
    pub fn append(&mut self, other: Self) {
        self.prompt_edits.extend(other.prompt_edits);
        self.lookahead = other.lookahead.or(self.lookahead.take());
        self.kv_policies.extend(other.kv_policies);
        self.attention = other.attention.or(self.attention.take());
        self.route = other.route.or(self.route.take());
        self.exit = other.exit.or(self.exit.take());
        self.draft = other.draft.or(self.draft.take());
        self.accept = other.accept.or(self.accept.take());
        self.scale = other.scale.or(self.scale.take());
        self.reducer = other.reducer.or(self.reducer.take());
        self.weight_edits.extend(other.weight_edits);
    }

    /// Which kinds of stage there are, in order.
    pub fn kinds(&self) -> Vec<StageKind> {
        let present = [
            (!self.prompt_edits.is_empty(), StageKind::PromptEdit),
            (self.lookahead.is_some(), StageKind::Lookahead),
            (!self.kv_policies.is_empty(), StageKind::KvPolicy),
            (self.attention.is_some(), StageKind::AttnPolicy),
            (self.route.is_some(), StageKind::Route),
            (self.exit.is_some(), StageKind::Exit),
            (self.draft.is_some(), StageKind::Draft),
            (self.accept.is_some(), StageKind::Accept),
            (self.scale.is_some(), StageKind::AttnScale),
            (self.reducer.is_some(), StageKind::TokenReducer),
            (!self.weight_edits.is_empty(), StageKind::WeightEdit),
        ];
        present.into_iter().filter_map(|(present, kind)| present.then_some(kind)).collect()
    }
}

impl FromIterator<Stage> for Stages {
    fn from_iter<I: IntoIterator<Item = Stage>>(stages: I) -> Self {
        let mut all = Self::default();
        for stage in stages {
            match stage {
                Stage::PromptEdit(stage) => all.prompt_edits.push(stage),
                Stage::Lookahead(stage) => all.lookahead = Some(stage),
                Stage::KvPolicy(stage) => all.kv_policies.push(stage),
                Stage::AttnPolicy(stage) => all.attention = Some(stage),
                Stage::Route(stage) => all.route = Some(stage),
                Stage::Exit(stage) => all.exit = Some(stage),
                Stage::Draft(stage) => all.draft = Some(stage),
                Stage::Accept(stage) => all.accept = Some(stage),
                Stage::AttnScale(stage) => all.scale = Some(stage),
                Stage::TokenReducer(stage) => all.reducer = Some(stage),
                Stage::WeightEdit(stage) => all.weight_edits.push(stage),
            }
        }
        all
    }
}
