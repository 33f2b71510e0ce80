//! Every way in which a choice of methods can be wrong.

use super::{ModelKind, Resource, TreeError};

/// Why methods were refused. [`MethodError::hint`] says what to do next.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MethodError {
    /// No method has this name.
    #[error("there is no method `{id}`")]
    UnknownMethod {
        /// The name as given.
        id: String,
        /// The nearest name.
        nearest: Option<&'static str>,
    },
    /// The method has no such knob.
    #[error("method `{method}` has no knob `{knob}`")]
    UnknownKnob {
        /// The method.
        method: &'static str,
        /// The name as given.
        knob: String,
        /// The nearest name.
        nearest: Option<&'static str>,
        /// The knobs that it has.
        known: String,
    },
    /// A value that the knob does not take.
    #[error("method `{method}`: knob `{knob}` does not take `{value}`; it takes {allowed}")]
    BadValue {
        /// The method.
        method: &'static str,
        /// The knob.
        knob: &'static str,
        /// The value as given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// A knob without a value that is not a flag.
    #[error("method `{method}`: knob `{knob}` needs a value; it takes {allowed}")]
    MissingValue {
        /// The method.
        method: &'static str,
        /// The knob.
        knob: &'static str,
        /// What is allowed.
        allowed: String,
    },
    /// A method or a knob that was given more than once.
    #[error("`{name}` is given more than once")]
    Twice {
        /// The method, or `method:knob`.
        name: String,
    },
    /// Text or JSON that cannot be read as a choice of methods.
    #[error("cannot read `{text}` as a method: {reason}")]
    Malformed {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two methods that both own a resource.
    #[error("`{first}` and `{second}` cannot be stacked: both own the resource `{resource}`")]
    Clash {
        /// The method given first.
        first: &'static str,
        /// The method given second.
        second: &'static str,
        /// What both want to decide alone.
        resource: Resource,
    },
    /// A method that does not work on this kind of model.
    #[error("`{method}` does not work on this model ({kind}); it works on: {works_on}")]
    WrongModel {
        /// The method.
        method: &'static str,
        /// The kind of the model.
        kind: ModelKind,
        /// What it works on.
        works_on: String,
    },
    /// A value in the knob's range that does not fit this model or the other knobs.
    #[error("method `{method}`: knob `{knob}` = {value} does not fit: {reason}")]
    Unfit {
        /// The method.
        method: &'static str,
        /// The knob.
        knob: &'static str,
        /// Its value.
        value: String,
        /// Why, with the range that would fit.
        reason: String,
    },
    /// A cut of the prompt that may not be.
    #[error("a method cut the prompt in a way that it may not: {found}")]
    Edit {
        /// What it did.
        found: String,
    },
    /// Something that the method needs failed.
    #[error("method `{method}`: {reason}")]
    Failed {
        /// The method.
        method: &'static str,
        /// What went wrong, where.
        reason: String,
    },
    /// A method that needs a second model, and was given none.
    #[error("`{method}` needs a draft model")]
    MissingDraftModel {
        /// The method.
        method: &'static str,
    },
    /// A draft model whose token ids mean other tokens.
    #[error("`{method}`: the draft model {draft} does not share the vocabulary of {model}: {reason}")]
    OtherVocabulary {
        /// The method.
        method: &'static str,
        /// The model.
        model: String,
        /// The draft model.
        draft: String,
        /// What differs.
        reason: String,
    },
    /// A draft model that was described but not read, as for a plan that is only printed.
    #[error("`{method}`: the draft model {origin} was not opened; this plan cannot run")]
    Unopened {
        /// The method.
        method: &'static str,
        /// The draft model.
        origin: String,
    },
    /// A method that needs trained weights, and was given none.
    #[error("`{method}` needs trained weights of its own")]
    MissingWeights {
        /// The method.
        method: &'static str,
    },
    /// Trained weights that do not fit the model or the knobs.
    #[error("`{method}`: the weights {origin} do not fit: {reason}")]
    BadWeights {
        /// The method.
        method: &'static str,
        /// Where they came from.
        origin: String,
        /// What is wrong with them.
        reason: String,
    },
    /// A method that changes the weights, asked for where they are used.
    #[error("`{method}` changes the weights of a model beforehand, not a model that runs")]
    Offline {
        /// The method.
        method: &'static str,
    },
    /// A method of a running model, asked for where weights are changed.
    #[error("`{method}` works on a model that runs; it does not change the weights")]
    Live {
        /// The method.
        method: &'static str,
    },
    /// A draft that is not a tree.
    #[error("the drafted tokens are no tree: {0}")]
    Tree(#[from] TreeError),
}

impl MethodError {
    /// What to do next, in one line.
    pub fn hint(&self) -> String {
        match self {
            Self::UnknownMethod { nearest: Some(id), .. } => format!("did you mean `{id}`?"),
            Self::UnknownMethod { .. } => "`whit methods` lists them all".into(),
            Self::UnknownKnob { nearest: Some(knob), .. } => format!("did you mean `{knob}`?"),
            Self::UnknownKnob { method, known, .. } if known.is_empty() => {
                format!("it has no knobs: `--with {method}` is all")
            }
            Self::UnknownKnob { known, .. } => format!("its knobs are {known}"),
            Self::BadValue { method, .. }
            | Self::MissingValue { method, .. }
            | Self::Unfit { method, .. } => {
                format!("`whit explain {method}` describes its knobs")
            }
            Self::Twice { .. } => "put all its knobs into one `--with id:knob=value,knob=value`".into(),
            Self::Malformed { .. } => "write `--with id` or `--with id:knob=value,knob=value`".into(),
            Self::Clash { first, second, .. } => format!("leave out `{first}` or `{second}`"),
            Self::WrongModel { .. } => "`whit methods` shows what each works on".into(),
            Self::Failed { method, .. } => format!("`whit explain {method}` says what it needs"),
            Self::Edit { .. } => "this is a fault of the method: leave it out and report it".into(),
            Self::MissingDraftModel { .. } | Self::OtherVocabulary { .. } => {
                "give a smaller model with the same tokenizer: `--draft-model DIR`".into()
            }
            Self::Unopened { .. } => "build the plan again with the draft model's network".into(),
            Self::MissingWeights { method } => {
                format!(
                    "give them with `--weights {method}=FILE`; `whit explain {method}` says how they are made"
                )
            }
            Self::BadWeights { method, .. } => {
                format!("train weights for this model; `whit explain {method}` says how")
            }
            Self::Offline { method } => {
                format!(
                    "write the changed model once, with `whit shrink --with {method} --out DIR`, then use it"
                )
            }
            Self::Live { method } => format!("give it to `whit generate --with {method}`"),
            Self::Tree(_) => "this is a fault of the drafting method: leave it out and report it".into(),
        }
    }
}

/// The name nearest to `word`, if it is near enough to be a slip.
pub(super) fn nearest(word: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let scored = names.map(|name| (strsim::jaro_winkler(word, name), name));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.8).then_some(best.1)
}
