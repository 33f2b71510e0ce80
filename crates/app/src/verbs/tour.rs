//! What the command does when nothing is asked: it completes Rust functions with the model that it
//! carries, plainly and with token recycling, names a few pictures, plainly and with tokens merged, and shows
//! what that gained.

mod pictures;

use std::path::Path;

use serde_json::json;
use whit::generate::text::TextModel;
use whit::generate::{Event, Request, Scheduler};
use whit::load::write_atomic;
use whit::measure::record::{Record, Setting};
use whit::measure::text::{TextTask, Variant};
use whit::measure::write;
use whit::methods::{ModelFacts, Plan, Selection};
use whit::models;
use whit::nn::vars::{Precision, Storage};

use self::pictures::Pictures;
use crate::context::Context;
use crate::embedded::RUST_LM;
use crate::error::AppError;
use crate::{interrupt, model, output};

const PROMPTS: [&str; 3] = [
    "impl<T> Iterator for Iter<T> {\n    type Item = T;\n\n    fn next(&mut self) -> Option<Self::Item> {\n",
    "/// Returns the number of bytes in the buffer.\npub fn len(&self) -> usize {\n",
    "#[derive(Clone, Copy, Debug, PartialEq, Eq)]\npub enum Error {\n",
];

const METHOD: &str = "token-recycling";
const TOKENS: usize = 160;
const ROUNDS: usize = 5;
const REPORT: &str = "whit-report.html";

/// A text, and in which forward pass each of its pieces came.
struct Text {
    pieces: Vec<String>,
}

pub fn run(context: &Context) -> Result<(), AppError> {
    interrupt::flag();
    let files = RUST_LM.open()?;
    let facts = models::facts(&files.config)?;
    let storage = Storage::Packed(Precision::Native);
    let text_model = TextModel::new(files, &storage, &|_| {})?;
    let (plain, recycling) = (plan(&[], &facts)?, plan(&[METHOD], &facts)?);
    let prompts = prompts(&text_model)?;
    let without = complete(&text_model, &plain, &prompts[0])?;
    let records = measure(&text_model, plain, &recycling, prompts.clone())?;
    let with = complete(&text_model, &recycling, &prompts[0])?;
    let pictures = pictures::run()?;
    let sections = section(&without, &with) + &pictures.section()?;
    let report = write::html("Whit: the same with less", &records, &sections);
    write_atomic(Path::new(REPORT), |file| {
        std::io::Write::write_all(file, report.as_bytes())
            .map_err(|reason| whit::load::LoadError::io("write", Path::new(REPORT), reason))
    })?;
    let value = json!({ "text": records, "pictures": pictures.records });
    context.emit(&value, || page(&without, &with, &records, &pictures))
}

fn plan(methods: &[&str], facts: &ModelFacts) -> Result<Plan, AppError> {
    Ok(Plan::new(&Selection::parse(methods)?, facts)?)
}

fn prompts(model: &TextModel) -> Result<Vec<Request>, AppError> {
    let prompts = PROMPTS.iter().map(|prompt| Request::written(model.prompt(prompt, false)?));
    Ok(prompts.collect::<Result<_, _>>()?)
}

fn complete(model: &TextModel, plan: &Plan, prompt: &Request) -> Result<Text, AppError> {
    let mut scheduler = Scheduler::new(&model.decoder);
    let request = Request { max_tokens: TOKENS, ..prompt.clone() };
    scheduler.add(request, plan.begin())?;
    let mut stream = model.stream(Vec::new());
    let mut pieces = Vec::new();
    let mut events: Vec<Event> = Vec::new();
    scheduler.run(|_, event| events.push(event.clone()))?;
    for event in events {
        pieces.push(stream.push(&event.tokens)?);
    }
    pieces.push(stream.finish()?);
    Ok(Text { pieces })
}

impl Text {
    fn whole(&self) -> String {
        self.pieces.concat()
    }
}

fn measure(
    model: &TextModel,
    plain: Plan,
    recycling: &Plan,
    prompts: Vec<Request>,
) -> Result<Vec<Record>, AppError> {
    let bar = model::bar(2 * (ROUNDS as u64 + 1), "measuring");
    let task = TextTask {
        model: &model.decoder,
        prompts,
        new_tokens: TOKENS,
        rounds: ROUNDS,
        held_out: None,
        setting: Setting::here("rust-lm".into(), "native".into(), true, ROUNDS),
    };
    let variant = Variant { name: METHOD.into(), plan: recycling.clone() };
    let records = task.measure(plain, vec![variant], &|| bar.inc(1))?;
    bar.finish_and_clear();
    Ok(records)
}

/// The texts side by side; in the second one every other pass is shaded.
fn section(without: &Text, with: &Text) -> String {
    let prompt = write::escape(PROMPTS[0]);
    let shaded: String = with
        .pieces
        .iter()
        .enumerate()
        .map(|(index, piece)| match index % 2 {
            0 => write::escape(piece),
            _ => format!("<span class=drafted>{}</span>", write::escape(piece)),
        })
        .collect();
    format!(
        "<h2>The text</h2><p>Plain decoding needs a forward pass for every token. With token recycling, each \
         change of shade is one pass: everything in a stretch was drafted and accepted together.</p>\
         <h3>plain</h3><pre><b>{prompt}</b>{}</pre><h3>token-recycling</h3><pre><b>{prompt}</b>{shaded}</pre>",
        write::escape(&without.whole())
    )
}

fn page(without: &Text, with: &Text, records: &[Record], pictures: &Pictures) -> String {
    let same = if without.whole() == with.whole() { "identical, token for token" } else { "NOT identical" };
    let table = output::records(records);
    let warnings =
        records.iter().flat_map(|record| &record.warnings).map(|warning| format!("note: {warning}\n"));
    format!(
        "{}{}\n\nThe embedded model wrote this plainly and with {METHOD}: {same}.\n\n{table}\n{}\n{}\n\n\
         All of it as a page: {REPORT}\n\nNext:\n  \
         whit explain {METHOD}\n  \
         whit generate --model DIR|FILE.gguf|owner/name -p \"Once upon a time\" --with {METHOD}\n  \
         whit bench text --model DIR --with {METHOD}\n  \
         whit classify photo.jpg --model DIR|owner/name --with tome --trace trace.html\n  \
         whit doctor",
        PROMPTS[0],
        with.whole().trim_end(),
        warnings.collect::<String>(),
        pictures.text(),
    )
}
