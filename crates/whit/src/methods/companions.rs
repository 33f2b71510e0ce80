//! What stands beside the model when methods are built: a second, smaller model, and trained weights
//! of their own. [`ModelFacts::companions`] hands it to them; most methods need none of it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use super::{MethodError, ModelFacts};
use crate::load::{Checkpoint, ModelFiles};
use crate::models::{self, ModelError};
use crate::nn::decoder::Decoder;
use crate::nn::vars::Source;

/// What methods are given besides the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Companions {
    /// The vocabulary of the model itself, where its tokenizer is known.
    pub own: Option<Vocabulary>,
    /// The draft model.
    pub draft: Option<DraftModel>,
    /// Side weights, by the id of the method that they are for.
    pub weights: BTreeMap<String, SideWeights>,
}

/// Whose tokens a model speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Where the model came from.
    pub origin: String,
    /// Rows of its embedding.
    pub size: usize,
    /// [`Tokenizer::fingerprint`](crate::load::Tokenizer::fingerprint), if it has a tokenizer.
    pub fingerprint: Option<u64>,
}

/// A second model that shares the vocabulary of the first.
#[derive(Clone, Debug)]
pub struct DraftModel {
    /// Its vocabulary.
    pub vocabulary: Vocabulary,
    /// What it is.
    pub facts: Box<ModelFacts>,
    /// The network; not there in a plan that is only printed.
    pub decoder: Option<Arc<Decoder>>,
}

/// Trained weights of a method.
#[derive(Clone)]
pub struct SideWeights {
    /// Where they came from.
    pub origin: String,
    /// Their tensors.
    pub source: Arc<dyn Source + Send>,
}

impl Vocabulary {
    /// The vocabulary of a model's files.
    ///
    /// # Errors
    /// If the configuration is wrong.
    pub fn of(files: &ModelFiles) -> Result<Self, ModelError> {
        let size = models::facts(&files.config)?.vocabulary;
        let fingerprint = files.tokenizer.as_ref().map(|tokenizer| tokenizer.fingerprint());
        Ok(Self { origin: files.origin.to_string(), size, fingerprint })
    }

    /// Why token ids of one cannot stand for tokens of the other; none if they can. Equal tokenizers
    /// settle it, since embeddings may have spare rows; without them the sizes must agree.
    pub fn differs(&self, other: &Self) -> Option<String> {
        match (self.fingerprint, other.fingerprint) {
            (Some(own), Some(others)) if own == others => None,
            (Some(_), Some(_)) => Some("their tokenizers give different ids".into()),
            _ if self.size == other.size => None,
            _ => Some(format!("they have {} and {} token ids", self.size, other.size)),
        }
    }
}

impl DraftModel {
    /// The draft model of these files; without `decoder` it is good for plans only.
    ///
    /// # Errors
    /// If the configuration is wrong.
    pub fn new(files: &ModelFiles, decoder: Option<Decoder>) -> Result<Self, ModelError> {
        Ok(Self {
            vocabulary: Vocabulary::of(files)?,
            facts: Box::new(models::facts(&files.config)?),
            decoder: decoder.map(Arc::new),
        })
    }

    /// The first layers of the model of these files, with its own head, as [`models::first_layers`] gives their
    /// `config`.
    ///
    /// # Errors
    /// If the configuration is wrong.
    pub fn first_layers(
        files: &ModelFiles,
        config: &Value,
        decoder: Option<Decoder>,
    ) -> Result<Self, ModelError> {
        let (facts, whole) = (models::facts(config)?, Vocabulary::of(files)?);
        let origin = format!("the first {} layers of {}", facts.layers, whole.origin);
        let vocabulary = Vocabulary { origin, ..whole };
        Ok(Self { vocabulary, facts: Box::new(facts), decoder: decoder.map(Arc::new) })
    }

    /// The network.
    ///
    /// # Errors
    /// If the plan was made without it.
    pub fn decoder(&self, method: &'static str) -> Result<&Arc<Decoder>, MethodError> {
        let missing = || MethodError::Unopened { method, origin: self.vocabulary.origin.clone() };
        self.decoder.as_ref().ok_or_else(missing)
    }
}

impl SideWeights {
    /// The tensors of a checkpoint.
    pub fn new(origin: impl Into<String>, checkpoint: Arc<dyn Checkpoint>) -> Self {
        Self { origin: origin.into(), source: Arc::new(models::Shared(checkpoint)) }
    }
}

impl ModelFacts {
    /// The draft model that `method` needs, with the vocabulary of this model.
    ///
    /// # Errors
    /// If there is none, or its vocabulary is another.
    pub fn draft_model(&self, method: &'static str) -> Result<&DraftModel, MethodError> {
        let draft = self.companions.draft.as_ref().ok_or(MethodError::MissingDraftModel { method })?;
        let unnamed =
            || Vocabulary { origin: self.architecture.clone(), size: self.vocabulary, fingerprint: None };
        let own = self.companions.own.clone().unwrap_or_else(unnamed);
        match own.differs(&draft.vocabulary) {
            None => Ok(draft),
            Some(reason) => Err(MethodError::OtherVocabulary {
                method,
                model: own.origin,
                draft: draft.vocabulary.origin.clone(),
                reason,
            }),
        }
    }

    /// The trained weights that `method` needs.
    ///
    /// # Errors
    /// If there are none.
    pub fn side_weights(&self, method: &'static str) -> Result<&SideWeights, MethodError> {
        self.companions.weights.get(method).ok_or(MethodError::MissingWeights { method })
    }
}

impl Companions {
    /// Whether there is neither a draft model nor weights.
    pub fn is_empty(&self) -> bool {
        self.draft.is_none() && self.weights.is_empty()
    }
}

/// Two draft models are the same if they came from the same place.
impl PartialEq for DraftModel {
    fn eq(&self, other: &Self) -> bool {
        self.vocabulary == other.vocabulary && self.facts == other.facts
    }
}

impl PartialEq for SideWeights {
    fn eq(&self, other: &Self) -> bool {
        self.origin == other.origin
    }
}

impl fmt::Debug for SideWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SideWeights").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Serialize for Companions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(draft) = &self.draft {
            map.serialize_entry("draft_model", &draft.vocabulary.origin)?;
        }
        for (method, weights) in &self.weights {
            map.serialize_entry(method, &weights.origin)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(origin: &str, size: usize, fingerprint: Option<u64>) -> Vocabulary {
        Vocabulary { origin: origin.into(), size, fingerprint }
    }

    fn facts(own: Vocabulary, draft: Vocabulary) -> ModelFacts {
        let draft = DraftModel { vocabulary: draft, facts: Box::new(ModelFacts::example()), decoder: None };
        let companions = Companions { own: Some(own), draft: Some(draft), ..Companions::default() };
        ModelFacts { companions, ..ModelFacts::example() }
    }

    #[test]
    fn equal_tokenizers_settle_it_and_otherwise_sizes_must_agree() {
        let own = |fingerprint| vocabulary("large", 100, fingerprint);
        assert_eq!(own(Some(1)).differs(&vocabulary("small", 128, Some(1))), None);
        assert!(own(Some(1)).differs(&vocabulary("small", 100, Some(2))).is_some());
        assert_eq!(own(Some(1)).differs(&vocabulary("small", 100, None)), None);
        assert!(own(None).differs(&vocabulary("small", 128, None)).is_some());
    }

    #[test]
    fn a_foreign_draft_model_is_refused_with_both_names() {
        let facts = facts(vocabulary("large", 100, None), vocabulary("small", 90, None));
        let error = facts.draft_model("some-method").unwrap_err().to_string();
        for part in ["some-method", "large", "small", "100", "90"] {
            assert!(error.contains(part), "{part} is missing in: {error}");
        }
    }

    #[test]
    fn what_is_missing_is_said_with_the_flag_that_gives_it() {
        let facts = ModelFacts::example();
        let error = facts.draft_model("some-method").unwrap_err();
        assert!(error.to_string().contains("some-method") && error.hint().contains("--draft-model"));
        let error = facts.side_weights("some-method").unwrap_err();
        assert!(error.hint().contains("--weights some-method="));
    }

    #[test]
    fn a_plan_without_the_network_cannot_run() {
        let facts = facts(vocabulary("a", 256, None), vocabulary("b", 256, None));
        let draft = facts.draft_model("some-method").unwrap();
        assert!(matches!(draft.decoder("some-method"), Err(MethodError::Unopened { .. })));
    }
}
