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
    let Made { id, recipe, step, seconds, parameters, bytes, fingerprint, source } = made;
    let (config, schedule) = (recipe.config_json(), recipe.settings.schedule);
    let tokens = step * recipe.settings.parts * (recipe.shape.rows * recipe.shape.sequence) as u64;
    let mut text = format!(
        "# {id}\n\n{summary}\n\nIt is a small model for showing and testing what Whit's methods do on one that was really \
         trained. It is no assistant, and what it writes need not compile.\n\n## Model\n\n",
        summary = format_args!(
            "A {kind} language model of {:.2} million weights, trained from scratch by \
             `whit train {id}`.",
            *parameters as f64 / 1e6,
            kind = kind(&config),
        ),
    );
    let model = [
        ("layers", config["num_hidden_layers"].to_string()),
        ("width", config["hidden_size"].to_string()),
        ("feed-forward", config["intermediate_size"].to_string()),
        (
            "heads (query / key-value)",
            format!("{} / {}", config["num_attention_heads"], config["num_key_value_heads"]),
        ),
        ("context", format!("{} tokens", config["max_position_embeddings"])),
        ("vocabulary", format!("{} tokens, byte-level BPE, every digit a token", recipe.vocabulary)),
        ("weights", "bf16, embedding and output tied".into()),
    ];
    rows(&mut text, &model);
    text.push_str("\n## Training\n\n");
    let training = [
        ("text", source.to_string()),
        (
            "text size",
            format!("{:.1} MB to learn from, {:.1} MB held out", bytes.0 as f64 / 1e6, bytes.1 as f64 / 1e6),
        ),
        ("text fingerprint", format!("`{fingerprint:016x}`")),
        ("generated tasks", format!("{} of the sequences", percent(recipe.task_share))),
        ("repeated blocks", format!("{} of the sequences", percent(recipe.echo_share))),
        (
            "start",
            if recipe.seeded { "two pairs of heads set to look back and copy" } else { "random" }.into(),
        ),
        ("seed", recipe.seed.to_string()),
        ("batch", format!("{} x {} tokens", recipe.shape.rows, recipe.shape.sequence)),
        ("steps", format!("{step} of a schedule of {}", schedule.steps)),
        ("tokens seen", format!("{:.2} million", tokens as f64 / 1e6)),
        (
            "learning rate",
            format!("{} after {} steps, cosine to {}", schedule.peak, schedule.warm_up, schedule.floor),
        ),
        ("optimiser", format!("AdamW {:?}", recipe.settings.optimizer).replace("AdamW AdamW", "AdamW")),
        ("time", format!("{:.0} minutes", seconds / 60.0)),
        ("weights kept", "the moving average".into()),
    ];
    rows(&mut text, &training);
    let _ = write!(
        text,
        "\n## Figures\n\nMeasured by `whit train {id} --evaluate` on the weights as trained, before rounding to bf16.\n\n"
    );
    let held_out =
        format!("{:.3} ({:.2} MB of other crates' text)", figures.bits_per_byte, figures.bytes as f64 / 1e6);
    let loss = format!("{:.3} nats a token", figures.loss);
    let mut found = vec![("held-out bits per byte", held_out), ("held-out loss", loss)];
    found.extend(
        figures
            .tasks
            .iter()
            .map(|(task, share)| (task.as_str(), format!("{} answered to the letter", percent(*share)))),
    );
    let usage: Vec<_> = figures.usage.iter().flat_map(Usage::rows).collect();
    found.extend(usage.iter().map(|(name, share)| (name.as_str(), percent(*share))));
    rows(&mut text, &found);
    text
}

fn kind(config: &Value) -> &'static str {
    match (config["model_type"].as_str(), config["ffn_type"].as_str()) {
        (_, Some("block" | "block_linear")) => "BlockFFN",
        (Some("minicpm"), _) => "MiniCPM-architecture",
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

fn rows(text: &mut String, rows: &[(&str, String)]) {
    text.push_str("| | |\n|---|---|\n");
    for (name, value) in rows {
        let _ = writeln!(text, "| {name} | {value} |");
    }
}
