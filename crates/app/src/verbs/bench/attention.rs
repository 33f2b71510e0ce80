//! `whit bench attention`: the attention of decode steps alone.

use clap::Args;
use whit::measure::attention::{AttentionRecord, AttentionTask};
use whit::measure::text::Variant;
use whit::methods::{ModelFacts, Plan, Selection};

use crate::context::Context;
use crate::error::AppError;
use crate::{model, output};

#[derive(Debug, Args)]
pub struct Arguments {
    /// A method to measure; may be repeated for more rows
    #[arg(long, value_name = "METHOD[:KNOB=VALUE,...]")]
    with: Vec<String>,

    /// Tokens in the cache
    #[arg(long, default_value_t = 4096)]
    context: usize,

    /// Layers of the model
    #[arg(long, default_value_t = 32)]
    layers: usize,

    /// Query heads
    #[arg(long, default_value_t = 32)]
    heads: usize,

    /// Key-value heads
    #[arg(long, default_value_t = 8)]
    kv_heads: usize,

    /// Values a head
    #[arg(long, default_value_t = 128)]
    head_dim: usize,

    /// Rounds to time; every round runs every row once
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    let task = arguments.task()?;
    let variant = |name: &String| {
        let methods: Vec<&str> = name.split('+').collect();
        Ok(Variant { name: name.clone(), plan: Plan::new(&Selection::parse(&methods)?, &task.model)? })
    };
    let variants: Vec<Variant> = arguments.with.iter().map(variant).collect::<Result<_, AppError>>()?;
    let bar = model::bar((variants.len() as u64 + 1) * (arguments.rounds as u64 + 1), "measuring");
    let records = task.measure(&variants, &|| bar.inc(1));
    bar.finish_and_clear();
    context.emit(&records, || output::table(&HEAD, records.iter().map(row)))
}

impl Arguments {
    fn task(&self) -> Result<AttentionTask, AppError> {
        let sizes = [self.context, self.layers, self.heads, self.kv_heads, self.head_dim];
        let fits =
            sizes.iter().all(|size| (1..=1 << 20).contains(size)) && self.heads.is_multiple_of(self.kv_heads);
        if !fits {
            let hint = "give sizes from 1 to 1048576, and heads that are a multiple of kv-heads";
            return Err(AppError::input("these sizes make no attention", hint));
        }
        let model = ModelFacts {
            architecture: "LlamaForCausalLM".into(),
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            width: self.heads * self.head_dim,
            context: self.context,
            ..ModelFacts::example()
        };
        Ok(AttentionTask { model, context: self.context, rounds: self.rounds })
    }
}

const HEAD: [&str; 5] = ["methods", "ms a token", "spread", "of everything", "report"];

fn row(record: &AttentionRecord) -> Vec<String> {
    vec![
        record.methods.clone(),
        format!("{:.1}", 1000.0 * record.seconds.median),
        format!("{:.0} %", 100.0 * record.seconds.spread),
        format!("{:.1} %", 100.0 * record.share.median),
        record.report.clone().unwrap_or_default(),
    ]
}
