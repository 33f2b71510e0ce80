//! A method made of a pace and a rule.

use std::fmt::Debug;
use std::sync::Arc;

use super::map::{MapError, TokenMap};
use super::pace::Pace;
use super::tokens::{Looks, Tokens};
use crate::methods::{
    Access, Claim, Knobs, Method, MethodError, ModelFacts, Resource, Stage, StageKind, Stages, TokenReducer,
};

/// How tokens are made fewer, given how many patches stay.
pub trait Rule: Debug + Send + Sync {
    /// What it is decided on.
    fn looks(&self) -> Looks;

    /// The reduction of one image's tokens to `keep` patches, fewer than there are.
    ///
    /// # Errors
    /// If the numbers are not proper ones.
    fn map(&self, tokens: &Tokens<'_>, keep: usize) -> Result<TokenMap, MapError>;

    /// How many patches it really leaves.
    fn left(&self, patches: usize, keep: usize) -> usize {
        let _ = patches;
        keep
    }
}

/// The claims of every method that makes tokens fewer.
pub const CLAIMS: &[Claim] = &[Claim { resource: Resource::HiddenRows, access: Access::Own }];

/// The stages of every method that makes tokens fewer.
pub const STAGES: &[StageKind] = &[StageKind::TokenReducer];

/// A method that makes tokens fewer by a rule, at a pace.
#[derive(Clone, Debug)]
pub struct Reducer {
    method: &'static str,
    pace: Pace,
    rule: Arc<dyn Rule>,
    proportional: bool,
    layers: usize,
}

impl Reducer {
    /// A method with the knobs of [`Pace::of`]. `proportional` is whether attention counts a token by its size.
    ///
    /// # Errors
    /// If a knob does not fit the model.
    pub fn new(
        knobs: &Knobs,
        model: &ModelFacts,
        rule: Arc<dyn Rule>,
        proportional: bool,
    ) -> Result<Self, MethodError> {
        let pace = Pace::of(knobs, model.layers)?;
        Ok(Self { method: knobs.spec().id, pace, rule, proportional, layers: model.layers })
    }

    /// The patches that leave each block, where `patches` enter the first.
    fn counts(&self, patches: usize) -> Vec<usize> {
        let mut patches = patches;
        let mut step = |layer| {
            let keep = self.pace.keep(layer, patches);
            if keep < patches {
                patches = self.rule.left(patches, keep);
            }
            patches
        };
        (0..self.layers).map(&mut step).collect()
    }
}

impl Method for Reducer {
    fn begin(&self) -> Stages {
        let state: Box<dyn TokenReducer> = Box::new(self.clone());
        Stages::from_iter([Stage::TokenReducer(state)])
    }

    fn expect(&self) -> String {
        let counts = self.counts(196).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        format!("of 196 patches, {counts} leave the {} blocks", self.layers)
    }
}

impl TokenReducer for Reducer {
    fn acts(&self, layer: usize, patches: usize) -> bool {
        self.pace.keep(layer, patches) < patches
    }

    fn looks(&self) -> Looks {
        self.rule.looks()
    }

    fn proportional(&self) -> bool {
        self.proportional
    }

    fn reduce(&mut self, tokens: &Tokens<'_>) -> Result<Option<TokenMap>, MethodError> {
        let keep = self.pace.keep(tokens.layer, tokens.patches());
        if keep >= tokens.patches() {
            return Ok(None);
        }
        let failed = |error: MapError| MethodError::Failed { method: self.method, reason: error.to_string() };
        self.rule.map(tokens, keep).map(Some).map_err(failed)
    }
}
