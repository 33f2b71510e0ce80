//! The card that goes with a trained model: what it is, how it was made, what it can do.

use std::fmt::Write;

use serde_json::Value;

use super::evaluate::Figures;
use super::language::LanguageRecipe;
use super::sparsity::Usage;
use super::squeeze::{self, SqueezeRecipe};

/// What was run.
#[derive(Clone, Debug, PartialEq)]
pub struct Made<'a> {
    /// The recipe's name.
    pub id: &'a str,
    /// The recipe, with the steps of this run.
    pub recipe: &'a LanguageRecipe,
    /// Steps done.
    pub step: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// The number of weights.
    pub parameters: usize,
    /// Bytes of text to learn from, and held out.
    pub bytes: (usize, usize),
    /// The corpus' fingerprint.
    pub fingerprint: u64,
    /// Where the text is from.
    pub source: &'a str,
}

/// The card as Markdown.
pub fn card(made: &Made<'_>, figures: &Figures) -> String {
    let Made { id, recipe, parameters, .. } = made;
    let config = recipe.config_json();
    let mut text = format!(
        "# {id}\n\nA {kind} language model of {:.2} million weights, trained from scratch by `whit train {id}`.\n\n\
         It is a small model for showing and testing what Whit's methods do on one that was really \
         trained. It is no assistant, and what it writes need not compile.\n\n## Model\n\n",
        *parameters as f64 / 1e6,
        kind = kind(&config),
    );
    rows(&mut text, &model_rows(recipe, &config));
    text.push_str("\n## Training\n\n");
    rows(&mut text, &training_rows(made));
    let _ = write!(
        text,
        "\n## Figures\n\nMeasured by `whit train {id} --evaluate` on the weights as trained, before rounding to bf16.\n\n"
    );
    rows(&mut text, &figure_rows(figures));
    text
}

fn model_rows(recipe: &LanguageRecipe, config: &Value) -> Vec<(&'static str, String)> {
    // White-box models have GPT-2's names.
    let field = |name: &str, other: &str| config.get(name).unwrap_or(&config[other]).to_string();
    let white = config["model_type"] == "crate_gpt";
    let heads = field("num_attention_heads", "n_head");
    let inner = if white { "a step of ISTA".into() } else { config["intermediate_size"].to_string() };
    vec![
        ("layers", field("num_hidden_layers", "n_layer")),
        ("width", field("hidden_size", "n_embd")),
        ("feed-forward", inner),
        (
            "heads (query / key-value)",
            format!(
                "{heads} / {}",
                config.get("num_key_value_heads").map_or(heads.clone(), Value::to_string)
            ),
        ),
        ("context", format!("{} tokens", field("max_position_embeddings", "n_positions"))),
        ("vocabulary", format!("{} tokens, byte-level BPE, every digit a token", recipe.vocabulary)),
        ("weights", "bf16, embedding and output tied".into()),
    ]
}

fn training_rows(made: &Made<'_>) -> Vec<(&'static str, String)> {
    let Made { recipe, step, seconds, bytes, fingerprint, source, .. } = made;
    let (schedule, shape) = (recipe.settings.schedule, recipe.shape);
    let tokens = step * recipe.settings.parts * shape.tokens() as u64;
    let [learnt, held_out] = [bytes.0, bytes.1].map(|bytes| bytes as f64 / 1e6);
    vec![
        ("text", source.to_string()),
        ("text size", format!("{learnt:.1} MB to learn from, {held_out:.1} MB held out")),
        ("text fingerprint", format!("`{fingerprint:016x}`")),
        ("generated tasks", format!("{} of the sequences", percent(recipe.task_share))),
        ("repeated blocks", format!("{} of the sequences", percent(recipe.echo_share))),
        (
            "start",
            if recipe.seeded { "two pairs of heads set to look back and copy" } else { "random" }.into(),
        ),
        ("seed", recipe.seed.to_string()),
        ("batch", format!("{} x {} tokens", shape.rows, shape.sequence)),
        ("steps", format!("{step} of a schedule of {}", schedule.steps)),
        ("tokens seen", format!("{:.2} million", tokens as f64 / 1e6)),
        (
            "learning rate",
            format!("{} after {} steps, cosine to {}", schedule.peak, schedule.warm_up, schedule.floor),
        ),
        ("optimiser", format!("AdamW {:?}", recipe.settings.optimizer).replace("AdamW AdamW", "AdamW")),
        ("time", format!("{:.0} minutes", seconds / 60.0)),
        ("weights kept", "the moving average".into()),
    ]
}

fn figure_rows(figures: &Figures) -> Vec<(String, String)> {
    let held_out =
        format!("{:.3} ({:.2} MB of other crates' text)", figures.bits_per_byte, figures.bytes as f64 / 1e6);
    let loss = format!("{:.3} nats a token", figures.loss);
    let mut found = vec![("held-out bits per byte".into(), held_out), ("held-out loss".into(), loss)];
    let solved =
        |(task, share): &(String, f64)| (task.clone(), format!("{} answered to the letter", percent(*share)));
    found.extend(figures.tasks.iter().map(solved));
    let usage = figures.usage.iter().flat_map(Usage::rows);
    found.extend(usage.map(|(name, share)| (name.to_string(), percent(share))));
    found
}

fn kind(config: &Value) -> &'static str {
    match (config["model_type"].as_str(), config["ffn_type"].as_str()) {
        _ if config["router_act"] == "topk" => "mixture-of-experts",
        (_, Some("block" | "block_linear")) => "BlockFFN",
        (Some("minicpm"), _) => "MiniCPM-architecture",
        (Some("crate_gpt"), _) => "white-box (CRATE)",
        _ => "Llama-architecture",
    }
}

/// How a compressor was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Squeezed<'a> {
    /// The recipe's name.
    pub id: &'a str,
    /// The recipe, with the steps of this run.
    pub recipe: &'a SqueezeRecipe,
    /// Steps done.
    pub step: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// The number of weights.
    pub parameters: usize,
    /// Passages that the quality measures sorted out.
    pub distrusted: usize,
}

/// The card of a compressor as Markdown.
pub fn squeezed(made: &Squeezed<'_>, figures: &squeeze::Figures) -> String {
    let Squeezed { id, recipe, step, seconds, parameters, distrusted } = made;
    let config = recipe.config_json();
    let mut text = format!(
        "# {id}\n\nA token classifier of {:.2} million weights in the BERT architecture that says which words of an English \
         prompt can go, trained from scratch by `whit train {id}`. `whit squeeze` uses it where no other is named.\n\n\
         Its teacher is a rule, not a language model: it deletes stop words, fillers, stutters and repeated sentences of \
         generated passages. It is a small stand-in for the published checkpoints, not their equal.\n\n## Model\n\n",
        *parameters as f64 / 1e6
    );
    let model = [
        ("layers", config["num_hidden_layers"].to_string()),
        ("width", config["hidden_size"].to_string()),
        ("feed-forward", config["intermediate_size"].to_string()),
        ("heads", config["num_attention_heads"].to_string()),
        ("context", format!("{} tokens", config["max_position_embeddings"])),
        ("vocabulary", format!("{} word pieces, lower case", recipe.vocabulary)),
        ("weights", "bf16".into()),
    ];
    rows(&mut text, &model);
    text.push_str("\n## Training\n\n");
    let training = [
        ("passages", format!("{} of about {} words, of which {distrusted} were sorted out", recipe.passages[0], recipe.words)),
        ("sentences", "documentation of the crates in `Cargo.lock`, whole crates held out; statements and talk from forms".into()),
        ("steps", format!("{step} of {} x {} tokens", recipe.shape.rows, recipe.shape.sequence)),
        ("time", format!("{:.0} minutes on a shared CPU", seconds / 60.0)),
        ("seed", recipe.seed.to_string()),
    ];
    rows(&mut text, &training);
    let _ = write!(
        text,
        "\n## Figures\n\nMeasured by `whit train {id} --evaluate` on {} held-out passages, before rounding to bf16.\n\n",
        recipe.passages[1]
    );
    let found = figures.rows();
    rows(&mut text, &found);
    text
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn rows<N: std::fmt::Display>(text: &mut String, rows: &[(N, String)]) {
    text.push_str("| | |\n|---|---|\n");
    for (name, value) in rows {
        let _ = writeln!(text, "| {name} | {value} |");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::recipes;
    use crate::world::tasks::Task;

    #[test]
    fn no_card_has_a_hole() {
        for recipe in recipes::RECIPES {
            let settings = (recipe.settings)();
            let config = settings.config_json();
            for (name, value) in model_rows(&settings, &config) {
                assert!(!value.contains("null") && !value.contains('"'), "{}: {name} {value}", recipe.id);
            }
        }
    }

    /// The card under `models/` is what its recipe makes of these figures: recipe and model agree.
    #[test]
    fn the_shipped_card_is_of_the_recipe() {
        let recipe = (recipes::find(recipes::RECIPES, "rust-lm").unwrap().settings)();
        let made = Made {
            id: "rust-lm",
            recipe: &recipe,
            step: 2000,
            seconds: 1346.0,
            parameters: 3_476_736,
            bytes: (61_200_000, 2_800_000),
            fingerprint: 0x07f4_6d64_272f_b3aa,
            source: "Rust source and documentation of the crates in `Cargo.lock`, whole crates held out",
        };
        let shares = [0.96, 0.155, 0.6, 0.27, 0.07, 0.12, 0.01];
        let tasks = Task::ALL.iter().map(Task::to_string).zip(shares).collect();
        let figures = Figures { bits_per_byte: 1.119, loss: 2.324, bytes: 610_000, tasks, usage: None };
        assert_eq!(card(&made, &figures), include_str!("../../../../models/rust-lm/README.md"));
    }
}
