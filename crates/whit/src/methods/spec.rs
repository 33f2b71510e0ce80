//! What a method is, said once. Command line, HTTP, documentation, plans and the conformance suite
//! are all derived from the [`Spec`].

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::{Companions, Knobs, MethodError, StageKind, Stages};
use crate::nn::decoder::DecoderConfig;

/// The single description of a method.
#[derive(Debug)]
pub struct Spec {
    /// The name on every surface: kebab-case, unique.
    pub id: &'static str,
    /// The name for people.
    pub title: &'static str,
    /// Where it was published.
    pub paper: Paper,
    /// The family it belongs to, which is also the folder of its file.
    pub room: Room,
    /// How far the result may be from the baseline's.
    pub fidelity: Fidelity,
    /// The idea in a few sentences.
    pub summary: &'static str,
    /// The rest of the manual in Markdown, each section under a `##`: how it works, when it pays, what is
    /// ours and not the paper's.
    pub long: &'static str,
    /// The stages at which it is called.
    pub stages: &'static [StageKind],
    /// The resources it touches; the planner computes from them what can be stacked.
    pub claims: &'static [Claim],
    /// What can be set.
    pub knobs: &'static [Knob],
    /// What it needs besides the model.
    pub needs: &'static [Need],
    /// The kinds of model it works on.
    pub models: &'static [ModelKind],
    /// What the paper reports: its figures, on its machines, never ours.
    pub headlines: &'static [Headline],
    /// Makes the method for a model; refuses knobs that do not fit it.
    pub build: Build,
}

impl Spec {
    /// Whether it changes the weights beforehand rather than a running model.
    pub fn is_offline(&self) -> bool {
        self.stages.contains(&StageKind::WeightEdit)
    }
}

/// How a method is made for a model.
pub type Build = fn(&Knobs, &ModelFacts) -> Result<Arc<dyn Method>, MethodError>;

/// A method built for one model. It holds what all sequences share; [`Method::begin`] makes the rest.
pub trait Method: fmt::Debug + Send + Sync {
    /// Fresh state for one sequence.
    fn begin(&self) -> Stages;

    /// What to expect of it on this model, in words, for the plan.
    fn expect(&self) -> String;
}

/// A publication.
#[derive(Debug, Serialize)]
pub struct Paper {
    /// Its title.
    pub title: &'static str,
    /// Its authors.
    pub authors: &'static str,
    /// The year of the first version.
    pub year: u16,
    /// The arXiv number, or the address where there is none.
    pub arxiv: &'static str,
}

impl Paper {
    /// Where to read it.
    pub fn url(&self) -> String {
        if self.arxiv.starts_with("https:") {
            return self.arxiv.to_owned();
        }
        format!("https://arxiv.org/abs/{}", self.arxiv)
    }

    /// Where it was published, in short: `arXiv 2408.08696`, or the name of the site.
    pub fn source(&self) -> String {
        match self.arxiv.strip_prefix("https://") {
            Some(address) => address.split('/').next().unwrap_or(address).to_owned(),
            None => format!("arXiv {}", self.arxiv),
        }
    }
}

/// Declares an enum of unit variants with a name in kebab-case for programs and one line for people.
macro_rules! names {
    ($(#[$meta:meta])* $enum:ident { $($variant:ident = $name:literal, $help:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum $enum { $(#[doc = $help] #[serde(rename = $name)] $variant,)* }

        impl $enum {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name, as programs see it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One line for people.
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }

        impl fmt::Display for $enum {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}
pub(super) use names;

names! {
    /// The family of a method: the folder of its file.
    Room {
        Tokens = "tokens", "Fewer tokens: prompts cut, tokens merged or dropped.";
        Depth = "depth", "Less depth: layers that a token does not go through.";
        Steps = "steps", "Fewer steps: work reused from one denoising step to the next.";
        Cache = "cache", "Smaller caches: keys and values kept, merged or skipped.";
        Weights = "weights", "Smaller weights: quantised, pruned, sparse.";
        Drafts = "drafts", "Drafts: several tokens proposed cheaply and verified in one forward pass.";
        Codecs = "codecs", "Codecs: images, video and text in fewer tokens.";
        Control = "control", "Control: conditions steered, with little or no training.";
        Insight = "insight", "Insight: what the model attends to and knows.";
    }
}

names! {
    /// How far the result may be from the baseline's; later ones allow more.
    Fidelity {
        Exact = "exact", "The same output: token for token when greedy, the same distribution when sampled.";
        Bounded = "bounded", "Within a bound that the method states and checks.";
        Lossy = "lossy", "The output changes; measure what is lost.";
    }
}

names! {
    /// Something that a method may touch. Two methods clash only if both own one.
    Resource {
        Prompt = "prompt", "The prompt, before it is read.";
        VisionTokens = "vision-tokens", "The tokens of images and frames.";
        HiddenRows = "hidden-rows", "Rows of hidden states between blocks.";
        AttentionPattern = "attention-pattern", "Which keys a query reads.";
        ScoreSums = "score-sums", "Sums of attention weights, per key.";
        KvRows = "kv-rows", "Rows of the key-value cache.";
        KvBits = "kv-bits", "The number format of the key-value cache.";
        StepReuse = "step-reuse", "What one denoising step takes over from another.";
        Draft = "draft", "Which tokens are proposed for verification.";
        Acceptance = "acceptance", "Which proposed tokens are accepted.";
        UnmaskOrder = "unmask-order", "Which masked positions are filled first.";
        Weights = "weights", "The weights of the model.";
        WeightBits = "weight-bits", "The number format of the weights.";
        Depth = "depth", "How many layers a token goes through.";
        Experts = "experts", "Which experts of a feed-forward block are read.";
    }
}

names! {
    /// What a method does with a resource.
    Access {
        Read = "read", "looks at it, free to stack";
        Transform = "transform", "changes it in turn, stacks in the order given";
        Own = "own", "decides it alone, one owner at most";
    }
}

names! {
    /// A kind of model, as far as methods care.
    ModelKind {
        Decoder = "decoder", "A causal language model with a key-value cache.";
        Encoder = "encoder", "A text encoder or embedder.";
        Vision = "vision", "A vision transformer.";
        VisionLanguage = "vision-language", "A language model that reads images.";
        MaskedText = "masked-text", "A masked diffusion language model.";
        UNet = "u-net", "A diffusion U-Net.";
        DiffusionTransformer = "diffusion-transformer", "A diffusion transformer.";
        ImageTokens = "image-tokens", "An autoregressive or masked model of image tokens.";
    }
}

/// A resource that a method touches, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// What.
    pub resource: Resource,
    /// How.
    pub access: Access,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s {}", self.access, self.resource)
    }
}

/// Something that a method needs besides the model.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "need", content = "what", rename_all = "kebab-case")]
pub enum Need {
    /// Trained weights of its own.
    Weights(&'static str),
    /// A calibration run over data.
    Calibration(&'static str),
    /// A second, smaller model.
    DraftModel(&'static str),
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weights(what) => write!(f, "weights: {what}"),
            Self::Calibration(what) => write!(f, "calibration: {what}"),
            Self::DraftModel(what) => write!(f, "a draft model: {what}"),
        }
    }
}

/// A figure that the paper reports.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Headline {
    /// Model, data and machine of the paper.
    pub setting: &'static str,
    /// What was measured, with its unit.
    pub metric: &'static str,
    /// The paper's baseline.
    pub baseline: &'static str,
    /// The paper's result.
    pub result: &'static str,
}

/// One thing that can be set on a method.
#[derive(Debug, Serialize)]
pub struct Knob {
    /// The name: kebab-case, unique within the method.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// The value when nothing is said.
    pub default: Value,
    /// The value that switches the method off, if this knob can.
    pub off: Option<Value>,
    /// One line for people.
    pub help: &'static str,
}

/// The values that a knob takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    /// A whole number.
    Int {
        /// The smallest.
        min: usize,
        /// The largest.
        max: usize,
    },
    /// A number from 0 to 1.
    Ratio,
    /// A number.
    Float {
        /// The smallest.
        min: f64,
        /// The largest.
        max: f64,
    },
    /// One of some words.
    Choice {
        /// The words.
        options: &'static [&'static str],
    },
    /// Yes or no.
    Flag,
    /// Any text.
    Text {
        /// What the text is: `a model folder`, say.
        what: &'static str,
    },
}

/// The value of a knob.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Of [`Kind::Int`].
    Int(usize),
    /// Of [`Kind::Ratio`] and [`Kind::Float`].
    Float(f64),
    /// Of [`Kind::Choice`].
    Choice(&'static str),
    /// Of [`Kind::Flag`].
    Flag(bool),
    /// Of [`Kind::Text`].
    Text(Cow<'static, str>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => f.pad(&value.to_string()),
            Self::Float(value) => f.pad(&value.to_string()),
            Self::Choice(value) => f.pad(value),
            Self::Flag(value) => f.pad(if *value { "true" } else { "false" }),
            Self::Text(value) => f.pad(&escape(value)),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Ratio => write!(f, "a number from 0 to 1"),
            Self::Float { min, max } => write!(f, "a number from {min} to {max}"),
            Self::Choice { options } => write!(f, "one of {}", options.join(", ")),
            Self::Flag => write!(f, "true or false"),
            Self::Text { what } => f.write_str(what),
        }
    }
}

impl Kind {
    /// Reads a value as typed; `None` if it is not one of this kind.
    pub fn parse(self, text: &str) -> Option<Value> {
        let value = match self {
            Self::Int { .. } => Value::Int(text.parse().ok()?),
            Self::Ratio | Self::Float { .. } => Value::Float(text.parse().ok()?),
            Self::Choice { options } => Value::Choice(options.iter().find(|option| **option == text)?),
            Self::Flag => Value::Flag(match text {
                "true" | "on" | "yes" => true,
                "false" | "off" | "no" => false,
                _ => return None,
            }),
            Self::Text { .. } => Value::Text(unescape(text).into()),
        };
        self.allows(&value).then_some(value)
    }

    /// Reads a value from JSON; `None` if it is not one of this kind.
    pub fn from_json(self, value: &serde_json::Value) -> Option<Value> {
        match value {
            serde_json::Value::String(text) if matches!(self, Self::Choice { .. }) => self.parse(text),
            serde_json::Value::String(text) if matches!(self, Self::Text { .. }) => {
                Some(Value::Text(text.clone().into()))
            }
            serde_json::Value::Bool(_) if self == Self::Flag => self.parse(&value.to_string()),
            serde_json::Value::Number(_) => self.parse(&value.to_string()),
            _ => None,
        }
    }

    /// Whether `value` is one of this kind and in its range.
    pub fn allows(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Int { min, max }, Value::Int(value)) => (min..=max).contains(value),
            (Self::Ratio, Value::Float(value)) => (0.0..=1.0).contains(value),
            (Self::Float { min, max }, Value::Float(value)) => (min..=max).contains(value),
            (Self::Choice { options }, Value::Choice(value)) => options.contains(value),
            (Self::Flag, Value::Flag(_)) | (Self::Text { .. }, Value::Text(_)) => true,
            _ => false,
        }
    }

    /// The ends of the range, or every option: the values that have to work if any do.
    pub fn ends(self) -> Vec<Value> {
        match self {
            Self::Int { min, max } => vec![Value::Int(min), Value::Int(max)],
            Self::Ratio => vec![Value::Float(0.0), Value::Float(1.0)],
            Self::Float { min, max } => vec![Value::Float(min), Value::Float(max)],
            Self::Choice { options } => options.iter().map(|option| Value::Choice(option)).collect(),
            Self::Flag => vec![Value::Flag(false), Value::Flag(true)],
            Self::Text { .. } => vec![Value::Text("".into())],
        }
    }
}

/// Reads the escapes of a text on the command line: `\,` for a comma, `\n` for a line break, `\\`
/// for a backslash. Any other backslash stands for itself.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(letter) = rest.next() {
        let escaped = match (letter, rest.peek()) {
            ('\\', Some('n')) => Some('\n'),
            ('\\', Some(&same @ (',' | '\\'))) => Some(same),
            _ => None,
        };
        if escaped.is_some() {
            rest.next();
        }
        out.push(escaped.unwrap_or(letter));
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('\\', r"\\").replace(',', r"\,").replace('\n', r"\n")
}

/// What a method may know about the model it is built for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelFacts {
    /// The kind of model.
    pub kind: ModelKind,
    /// The architecture, as the model's config names it.
    pub architecture: String,
    /// The number of blocks.
    pub layers: usize,
    /// Query heads of a layer.
    pub heads: usize,
    /// Key-value heads of a layer.
    pub kv_heads: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// The width of a hidden state.
    pub width: usize,
    /// The number of token ids.
    pub vocabulary: usize,
    /// The longest sequence, in tokens.
    pub context: usize,
    /// The smallest sliding window of any layer, where one has one, in tokens.
    pub window: Option<usize>,
    /// What methods are given besides the model.
    #[serde(skip_serializing_if = "Companions::is_empty")]
    pub companions: Companions,
    /// The experts of a layer, where the model's feed-forward is that of BlockFFN.
    pub block_experts: Option<usize>,
    /// Whether keys and values are the same, as in a white-box model.
    pub tied_keys: bool,
}

impl ModelFacts {
    /// The facts of a language model.
    pub fn decoder(architecture: &str, config: &DecoderConfig) -> Self {
        Self {
            kind: ModelKind::Decoder,
            architecture: architecture.into(),
            layers: config.layers,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            width: config.width,
            vocabulary: config.vocab_size,
            context: config.max_positions,
            window: config.windows.iter().flatten().min().copied(),
            companions: Companions::default(),
            block_experts: config.block_ffn.map(|block| block.experts),
            tied_keys: config.white.is_some(),
        }
    }

    /// A small decoder, for examples and tests.
    pub fn example() -> Self {
        Self {
            kind: ModelKind::Decoder,
            architecture: "LlamaForCausalLM".into(),
            layers: 4,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            width: 64,
            vocabulary: 256,
            context: 512,
            window: None,
            companions: Companions::default(),
            block_experts: Some(32),
            tied_keys: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_outside_the_range_are_none() {
        let kind = Kind::Int { min: 1, max: 8 };
        assert_eq!(kind.parse("8"), Some(Value::Int(8)));
        for text in ["0", "9", "-1", "1.5", "", "eight", "99999999999999999999999"] {
            assert_eq!(kind.parse(text), None, "{text}");
        }
        for text in ["nan", "inf", "-0.1", "1.01", "half"] {
            assert_eq!(Kind::Ratio.parse(text), None, "{text}");
        }
        assert_eq!(Kind::Flag.parse("on"), Some(Value::Flag(true)));
        let text = Kind::Text { what: "a text" };
        for value in ["", "a,b", r"C:\dir\name", "line\nline", r"\\,n"] {
            let value = Value::Text(value.to_owned().into());
            assert_eq!(text.parse(&value.to_string()), Some(value));
        }
        assert_eq!(Kind::Choice { options: &["mean", "max"] }.parse("median"), None);
    }

    #[test]
    fn json_values_keep_their_type() {
        let json = serde_json::json!([4, 4.0, "4", true, null]);
        let ints: Vec<_> = (0..5).map(|i| Kind::Int { min: 0, max: 9 }.from_json(&json[i])).collect();
        assert_eq!(ints, [Some(Value::Int(4)), None, None, None, None]);
        assert_eq!(Kind::Float { min: 0.0, max: 9.0 }.from_json(&json[0]), Some(Value::Float(4.0)));
        assert_eq!(Kind::Flag.from_json(&json[3]), Some(Value::Flag(true)));
    }
}
