//! `recall-lm` and `recall-draft`: two language models of one family that are trained to find things in a
//! long context, for judging what cache, attention and draft methods lose. Twelve layers and 2048 tokens
//! of context, because some methods reuse in later layers what earlier ones chose; and a small draft of
//! two layers with the same vocabulary.

use serde_json::json;

use super::{Recipe, rust_lm};
use crate::train::language::LanguageRecipe;
use crate::train::run::Settings;
use crate::train::schedule::Schedule;
use crate::train::windows::{Growth, Shape};

pub(super) const RECIPE: Recipe = Recipe {
    id: "recall-lm",
    summary: "a 5.2 M parameter language model of 12 layers and 2048 tokens of context, mostly of generated tasks",
    settings: || family(12, Schedule { peak: 1.5e-3, floor: 1e-4, warm_up: 50, steps: 450 }),
};

pub(super) const DRAFT: Recipe = Recipe {
    id: "recall-draft",
    summary: "a 1.3 M parameter draft for recall-lm, with the same vocabulary",
    settings: || family(2, Schedule { peak: 3e-3, floor: 2e-4, warm_up: 50, steps: 1_000 }),
};

fn family(layers: usize, schedule: Schedule) -> LanguageRecipe {
    let mut recipe = rust_lm::language();
    recipe.config["intermediate_size"] = json!(256);
    recipe.config["num_hidden_layers"] = json!(layers);
    recipe.config["max_position_embeddings"] = json!(2048);
    let settings = Settings { schedule, ..recipe.settings };
    let growth = Some(Growth { first: 128, until: schedule.steps * 3 / 4 });
    let shape = Shape { rows: 2, sequence: 2048 };
    LanguageRecipe { shape, growth, task_share: 0.7, echo_share: 0.2, settings, ..recipe }
}
