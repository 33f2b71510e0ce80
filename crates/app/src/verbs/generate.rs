use std::io::{self, Read, Write};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use whit::generate::text::{TextModel, TextStream};
use whit::generate::{Event, Finish, Request, Scheduler, Statistics, trace};
use whit::load::{LoadError, write_atomic};
use whit::methods::Plan;

use crate::context::Context;
use crate::error::AppError;
use crate::interrupt;
use crate::model::{MethodArguments, ModelArguments};
use crate::output;
use crate::sampling::SamplingArguments;

/// Continue one or several prompts
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    /// The prompt; may be repeated, then all are continued together; `-` reads standard input
    #[arg(short, long, required_unless_present = "dry_run")]
    prompt: Vec<String>,

    /// Treat each prompt as a message in a conversation, by the model's chat template
    #[arg(long)]
    chat: bool,

    /// The most tokens to add
    #[arg(short = 'n', long, default_value_t = 256)]
    max_tokens: usize,

    /// End the text before this string; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,

    /// Also write a page that shows what the methods dropped, read, drafted and accepted
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    #[command(flatten)]
    methods: MethodArguments,

    #[command(flatten)]
    sampling: SamplingArguments,
}

/// One continued prompt, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Answer {
    prompt: String,
    text: String,
    tokens: Vec<u32>,
    finish: &'static str,
    timings: Timings,
}

/// What an answer cost.
#[derive(Debug, Default, Serialize)]
struct Timings {
    original_tokens: usize,
    edit_seconds: f64,
    prompt_tokens: usize,
    prompt_seconds: f64,
    prompt_tokens_per_second: f64,
    new_tokens: usize,
    decode_seconds: f64,
    decode_tokens_per_second: f64,
    decode_passes: usize,
    tokens_per_pass: f64,
    cache_bytes: usize,
    draft: Option<String>,
    lookahead: Option<String>,
    experts: Option<String>,
    attention: Option<String>,
    depth: Option<String>,
}

/// A prompt in work.
struct Job {
    id: usize,
    prompt: String,
    stream: TextStream,
    tokens: Vec<u32>,
    finish: Option<Finish>,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    let files = arguments.model.files()?;
    let plan = arguments.methods.plan(&arguments.model, &files, context)?;
    if arguments.methods.dry_run {
        return context.emit(&plan.to_json(), || plan.to_string());
    }
    arguments.check_trace()?;
    interrupt::flag();
    let model = arguments.model.open(files, context)?;
    let answers = arguments.answer(&model, &plan, context)?;
    if context.json {
        return match answers.as_slice() {
            [one] => output::json(one),
            several => output::json(&several),
        };
    }
    answers.iter().for_each(|answer| eprintln!("{}", answer.timings.line()));
    interrupt::check()
}

impl Arguments {
    /// What can be known to be wrong with `--trace` before the model is read.
    fn check_trace(&self) -> Result<(), AppError> {
        let Some(path) = &self.trace else { return Ok(()) };
        if self.prompt.len() > 1 {
            let message = format!("--trace shows one text, and there are {} prompts", self.prompt.len());
            return Err(AppError::input(message, "give one --prompt, or one call for each"));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        match folder.filter(|folder| !folder.is_dir()) {
            Some(folder) => {
                let message =
                    format!("--trace cannot write into {}: there is no such folder", folder.display());
                Err(AppError::input(message, "make the folder, or write somewhere else"))
            }
            None => Ok(()),
        }
    }

    fn answer(&self, model: &TextModel, plan: &Plan, context: &Context) -> Result<Vec<Answer>, AppError> {
        let mut scheduler = Scheduler::new(&model.decoder);
        let prompts = self.prompt.iter().map(|prompt| text_of(prompt));
        let prompts: Vec<String> = prompts.collect::<Result<_, _>>()?;
        let jobs = prompts.into_iter().map(|prompt| self.start(prompt, model, plan, &mut scheduler));
        let mut jobs: Vec<Job> = jobs.collect::<Result<_, AppError>>()?;
        let live = jobs.len() == 1 && !context.json;
        while scheduler.is_busy() {
            for event in scheduler.step()? {
                advance(&mut jobs, &event, &mut scheduler, live)?;
            }
            if interrupt::check().is_err() {
                jobs.iter().for_each(|job| scheduler.end(job.id, Finish::Cancelled));
            }
        }
        if !live && !context.json {
            jobs.iter()
                .try_for_each(|job| output::text(&format!("{}\n{}\n", job.prompt, job.stream.text())))?;
        }
        if let Some(path) = &self.trace {
            let trace = jobs.first().and_then(|job| scheduler.trace(job.id)).unwrap_or_default();
            let page = trace::page(&trace, &self.model.model, plan, &model.tokenizer);
            write_atomic(path, |file| {
                file.write_all(page.as_bytes()).map_err(|reason| LoadError::io("write", path, reason))
            })?;
        }
        Ok(jobs.into_iter().map(|job| job.done(&mut scheduler)).collect())
    }

    fn start(
        &self,
        prompt: String,
        model: &TextModel,
        plan: &Plan,
        scheduler: &mut Scheduler<'_>,
    ) -> Result<Job, AppError> {
        let request = Request {
            max_tokens: self.max_tokens,
            sampling: self.sampling.resolve(&model.generation)?,
            stop_tokens: model.stop_tokens(),
            traced: self.trace.is_some(),
            ..Request::written(model.prompt(&prompt, self.chat)?)?
        };
        let id = scheduler.add(request, plan.begin())?;
        Ok(Job { id, prompt, stream: model.stream(self.stop.clone()), tokens: Vec::new(), finish: None })
    }
}

/// The prompt itself, or standard input for `-`.
fn text_of(prompt: &str) -> Result<String, AppError> {
    if prompt != "-" {
        return Ok(prompt.to_owned());
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(AppError::file("read", "standard input".as_ref()))?;
    Ok(text)
}

/// Takes over what a step gave a prompt; writes it at once where `live`.
fn advance(
    jobs: &mut [Job],
    event: &Event,
    scheduler: &mut Scheduler<'_>,
    live: bool,
) -> Result<(), AppError> {
    let Some(job) = jobs.iter_mut().find(|job| job.id == event.id) else { return Ok(()) };
    job.tokens.extend(&event.tokens);
    let mut piece = job.stream.push(&event.tokens)?;
    if job.stream.is_stopped() && event.finish.is_none() {
        scheduler.end(job.id, Finish::Stop);
        job.finish = Some(Finish::Stop);
    }
    if event.finish.is_some() {
        job.finish = event.finish;
        piece += &job.stream.finish()?;
    }
    if live {
        let mut out = io::stdout().lock();
        out.write_all(piece.as_bytes())?;
        if job.finish.is_some() {
            out.write_all(b"\n")?;
        }
        out.flush()?;
    }
    Ok(())
}

impl Job {
    fn done(self, scheduler: &mut Scheduler<'_>) -> Answer {
        let statistics = scheduler.statistics(self.id).unwrap_or_default();
        Answer {
            text: self.stream.text().to_owned(),
            prompt: self.prompt,
            tokens: self.tokens,
            finish: self.finish.unwrap_or(Finish::Cancelled).name(),
            timings: Timings::from(statistics),
        }
    }
}

impl From<Statistics> for Timings {
    fn from(statistics: Statistics) -> Self {
        let rate = |count: usize, seconds: f64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let decoded = statistics.new_tokens.saturating_sub(1);
        Self {
            original_tokens: statistics.original_tokens,
            edit_seconds: statistics.edit_seconds,
            prompt_tokens: statistics.prompt_tokens,
            prompt_seconds: statistics.prompt_seconds,
            prompt_tokens_per_second: rate(
                statistics.prompt_tokens,
                statistics.prompt_seconds - statistics.edit_seconds,
            ),
            new_tokens: statistics.new_tokens,
            decode_seconds: statistics.decode_seconds,
            decode_tokens_per_second: rate(decoded, statistics.decode_seconds),
            decode_passes: statistics.decode_passes,
            tokens_per_pass: decoded as f64 / statistics.decode_passes.max(1) as f64,
            cache_bytes: statistics.cache_bytes,
            draft: statistics.draft,
            lookahead: statistics.lookahead,
            experts: statistics.experts,
            attention: statistics.attention,
            depth: statistics.depth,
        }
    }
}

impl Timings {
    /// One line for people, after the text.
    fn line(&self) -> String {
        let notes = [&self.lookahead, &self.attention, &self.draft, &self.experts, &self.depth];
        let notes: String = notes.into_iter().flatten().map(|note| format!("; {note}")).collect();
        let cut = match self.original_tokens {
            original if original == self.prompt_tokens => String::new(),
            original => format!(", cut from {original} in {:.2} s,", self.edit_seconds),
        };
        format!(
            "[prompt {} tokens{cut} at {:.0}/s; {} tokens at {:.1}/s{notes}]",
            self.prompt_tokens, self.prompt_tokens_per_second, self.new_tokens, self.decode_tokens_per_second
        )
    }
}
