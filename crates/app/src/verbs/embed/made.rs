//! What vectors were made with, so that only those that can be compared are.

use serde::{Deserialize, Serialize};
use whit::load::ModelFiles;
use whit::methods::Plan;
use whit::world::stable_hash;

use super::PoolingName;

/// What vectors were made with: only those that were made alike can be compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Made {
    /// The folder, file or name of the model, and the fingerprint of its configuration.
    model: String,
    /// How tokens became one vector, where the call said so.
    pooling: Option<String>,
    /// The methods that were on, as `--with` takes them.
    with: Vec<String>,
}

impl Made {
    pub(super) fn of(files: &ModelFiles, plan: &Plan, pooling: Option<PoolingName>) -> Self {
        let print = stable_hash(files.config.to_string().as_bytes());
        let name = files.origin.to_string();
        let name = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let pooling = pooling.map(|name| format!("{name:?}").to_lowercase());
        let with = plan.parts().iter().map(|part| format!("{}:{}", part.spec().id, part.knobs)).collect();
        Self { model: format!("{name} {print:016x}"), pooling, with }
    }
}

impl std::fmt::Display for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.model)?;
        if let Some(pooling) = &self.pooling {
            write!(f, " --pooling {pooling}")?;
        }
        self.with.iter().try_for_each(|with| write!(f, " --with {with}"))
    }
}
