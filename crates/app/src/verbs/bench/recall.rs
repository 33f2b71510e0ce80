//! `whit bench recall`: keys found in a long context, and the loss of a text, read step by step.

use clap::Args;
use serde::Serialize;
use whit::generate::text::TextModel;
use whit::measure::recall::{self, Question};
use whit::measure::stepwise;
use whit::methods::{Part, Plan, Selection, StageKind};
use whit::models;
use whit::world::tasks::{Lines, Task};

use crate::context::Context;
use crate::error::AppError;
use crate::model::ModelArguments;
use crate::{interrupt, model, output};

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    /// A method to measure; may be repeated for more rows
    #[arg(long, value_name = "METHOD[:KNOB=VALUE,...]")]
    with: Vec<String>,

    /// Tokens of a context
    #[arg(long, default_value_t = 1024)]
    context: usize,

    /// Questions to ask, each in a context of its own
    #[arg(long, default_value_t = 40)]
    samples: usize,

    /// What is asked: key-retrieval, many-keys, variable-tracking, common-word, facts or copying
    #[arg(long, default_value = "key-retrieval", value_parser = task)]
    task: Task,

    /// Read the question in steps behind the prompt, so that methods do not know it when they thin out the cache
    #[arg(long)]
    behind: bool,

    /// Contexts whose second half is scored
    #[arg(long, default_value_t = 4)]
    windows: usize,
}

/// What was found of one row.
#[derive(Debug, Default, Serialize)]
struct Found {
    methods: String,
    context: usize,
    /// The share of questions that were answered to the letter.
    answered: f64,
    /// In nats a token.
    loss: f64,
    perplexity: f64,
    /// Of the row without methods.
    perplexity_ratio: f64,
}

fn task(name: &str) -> Result<Task, String> {
    let slug = |task: &Task| task.to_string().replace(' ', "-");
    Task::ALL
        .into_iter()
        .find(|task| slug(task) == name)
        .ok_or_else(|| format!("there is {}", Task::ALL.iter().map(slug).collect::<Vec<_>>().join(", ")))
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    interrupt::flag();
    let files = arguments.model.files()?;
    let facts = models::facts(&files.config)?;
    let names = std::iter::once("").chain(arguments.with.iter().map(String::as_str));
    let plan = |name: &str| {
        let methods: Vec<&str> = name.split('+').filter(|name| !name.is_empty()).collect();
        Ok((name.to_owned(), suited(Plan::new(&Selection::parse(&methods)?, &facts)?.live()?)?))
    };
    let plans: Vec<(String, Plan)> = names.map(plan).collect::<Result<_, AppError>>()?;
    let model = arguments.model.open(files, context)?;
    let found = arguments.measure(&model, &plans)?;
    context.emit(&found, || output::table(&HEAD, found.iter().map(row)))
}

/// Refuses methods that would not be felt here: the text is given as tokens, and each token is dictated.
fn suited(plan: Plan) -> Result<Plan, AppError> {
    let elsewhere = |stage: &StageKind| matches!(stage, StageKind::PromptEdit | StageKind::Accept);
    match plan.parts().iter().map(Part::spec).find(|spec| spec.stages.iter().any(elsewhere)) {
        None => Ok(plan),
        Some(spec) => Err(AppError::input(
            format!("bench recall cannot measure {}: the tokens of its texts are given", spec.id),
            "measure it with `whit bench text`, and prompts that are cut with `whit bench squeeze`",
        )),
    }
}

impl Arguments {
    fn measure(&self, model: &TextModel, plans: &[(String, Plan)]) -> Result<Vec<Found>, AppError> {
        let questions = self.questions(model)?;
        let windows = self.windows(model)?;
        let bar = model::bar((plans.len() * (questions.len() + windows.len())) as u64, "measuring");
        let mut all: Vec<Found> = Vec::new();
        for (name, plan) in plans {
            let mut right = 0;
            for question in &questions {
                right += usize::from(question.is_answered(&model.decoder, plan, self.behind)?);
                bar.inc(1);
            }
            let mut losses = Vec::new();
            for window in &windows {
                losses.extend(stepwise::losses(&model.decoder, plan, window, window.len() / 2)?);
                bar.inc(1);
            }
            let loss = losses.iter().copied().map(f64::from).sum::<f64>() / losses.len().max(1) as f64;
            let methods = if name.is_empty() { "none".to_owned() } else { name.clone() };
            let baseline = all.first().map_or(loss, |first| first.loss);
            all.push(Found {
                methods,
                context: self.context,
                answered: right as f64 / questions.len().max(1) as f64,
                loss,
                perplexity: loss.exp(),
                perplexity_ratio: (loss - baseline).exp(),
            });
        }
        bar.finish_and_clear();
        Ok(all)
    }

    /// Keys hidden among lines of code, as many tokens as fit the context.
    fn questions(&self, model: &TextModel) -> Result<Vec<Question>, AppError> {
        let lines = Lines::new(TEXTS);
        let questions = recall::questions(&model.tokenizer, &lines, self.task, self.context, self.samples)?;
        if questions.len() < self.samples {
            let message = format!("no {} contexts of {} tokens could be made", self.samples, self.context);
            return Err(AppError::input(message, "give fewer --samples or another --context"));
        }
        Ok(questions)
    }

    /// Pieces of this program's source.
    fn windows(&self, model: &TextModel) -> Result<Vec<Vec<u32>>, AppError> {
        let text = model.tokenizer.encode(&TEXTS.join("\n"), false)?;
        Ok(text.chunks_exact(self.context.max(4)).take(self.windows).map(<[u32]>::to_vec).collect())
    }
}

/// What contexts are made of.
pub(in super::super) const TEXTS: [&str; 6] = [
    include_str!("../generate.rs"),
    include_str!("../chat.rs"),
    include_str!("../train.rs"),
    include_str!("../doctor.rs"),
    include_str!("../explain.rs"),
    include_str!("../tour.rs"),
];

const HEAD: [&str; 6] = ["methods", "context", "answered", "loss", "perplexity", "of the first"];

fn row(found: &Found) -> Vec<String> {
    vec![
        found.methods.clone(),
        found.context.to_string(),
        format!("{:.1} %", 100.0 * found.answered),
        format!("{:.4}", found.loss),
        format!("{:.3}", found.perplexity),
        format!("{:.4}", found.perplexity_ratio),
    ]
}
