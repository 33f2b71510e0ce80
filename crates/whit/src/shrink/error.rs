//! Every way in which the weights of a model can refuse to be changed.

use crate::load::LoadError;
use crate::methods::MethodError;
use crate::models::ModelError;
use crate::nn::vars::VarsError;

/// Why a model could not be made smaller. [`ShrinkError::hint`] says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShrinkError {
    /// The choice of methods is wrong.
    #[error(transparent)]
    Method(#[from] MethodError),
    /// A file could not be read or written.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The model could not be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A block could not be built from its changed weights.
    #[error(transparent)]
    Vars(#[from] VarsError),
    /// The text to calibrate with is missing or too short.
    #[error("calibration: {reason}")]
    Calibration {
        /// What is wrong.
        reason: String,
    },
    /// Rows that groups do not divide.
    #[error("`{tensor}`: groups of {group} do not divide its rows of {inputs} weights")]
    Group {
        /// The tensor.
        tensor: String,
        /// Weights in a row.
        inputs: usize,
        /// Weights in a group.
        group: usize,
    },
    /// A second-moment matrix that has no Cholesky factor.
    #[error("`{tensor}`: the second moments of its inputs are not positive definite with damping {damping}")]
    NotPositive {
        /// The tensor.
        tensor: String,
        /// The damping, as a share of the mean of the diagonal.
        damping: f64,
    },
    /// Something else about a tensor that does not suit the method.
    #[error("`{tensor}`: {reason}")]
    Unfit {
        /// The tensor.
        tensor: String,
        /// Why.
        reason: String,
    },
}

impl ShrinkError {
    /// An [`Unfit`](Self::Unfit).
    pub fn unfit(tensor: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unfit { tensor: tensor.into(), reason: reason.into() }
    }

    /// What to do next, if there is something to say.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Method(error) => error.hint(),
            Self::Calibration { .. } => {
                "give more text with --calibrate FILE or FOLDER, or a smaller --length".into()
            }
            Self::Group { inputs, .. } => {
                format!("choose a group that divides {inputs}, or group=0 for whole rows")
            }
            Self::NotPositive { .. } => "raise `damp`, or calibrate with more text".into(),
            Self::Unfit { .. } | Self::Load(_) | Self::Model(_) | Self::Vars(_) => return None,
        })
    }
}
