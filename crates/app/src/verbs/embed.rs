//! `whit embed`: texts and images as vectors, and search among them.

use std::cell::RefCell;
use std::io::{self, BufReader, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use whit::embed::{Embedder, Pooling, Settings, cosine};
use whit::load::image::Picture;
use whit::methods::Plan;
use whit::methods::reducers::Passes;

use crate::context::Context;
use crate::error::AppError;
use crate::model::ModelArguments;
use crate::output;
use crate::trace::Tracing;

mod entry;
mod made;

use entry::{Content, Entry, Hit, MADE, folder, is, lines};
use made::Made;

/// Turn texts or images into vectors, or rank them by a query
///
/// A .jsonl file has an object a line with `text` or `image` (a path), whose other fields are passed on; any other
/// text file has a text a line; an image is itself. A folder stands for the images in it, or with a text
/// model for the .txt and .md files, each as one text. `-` reads lines from standard input.
///
/// What --jsonl writes is an index: --search takes the vectors in it as they are, if they were made with this model and
/// these methods, and refuses them otherwise.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Files, folders, or - for standard input
    #[arg(required = true, value_name = "FILE|FOLDER|-")]
    inputs: Vec<PathBuf>,

    #[command(flatten)]
    model: ModelArguments,

    /// Switch a method on; may be repeated
    #[arg(long, value_name = "METHOD[:KNOB=VALUE,...]")]
    with: Vec<String>,

    /// How tokens become one vector [default: as the model's files say]
    #[arg(long, value_enum)]
    pooling: Option<PoolingName>,

    /// Give vectors length one [default: as the model's files say]
    #[arg(long, alias = "normalize")]
    normalise: bool,

    /// Leave vectors as they are, whatever the model's files say
    #[arg(long, conflicts_with = "normalise", alias = "no-normalize")]
    no_normalise: bool,

    /// Also write a page that shows which patches of images the methods merged or dropped; a folder gets maps as PNG too
    #[arg(long, value_name = "FILE|FOLDER/")]
    trace: Option<PathBuf>,

    /// Texts or images that go through the model together
    #[arg(long, default_value_t = 16, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,

    /// Read lines of standard input as JSON, and write an object a line with `embedding`
    #[arg(long)]
    jsonl: bool,

    /// Rank the entries by their cosine with this text, or with the image at this path
    #[arg(long, value_name = "QUERY", conflicts_with = "jsonl")]
    search: Option<String>,

    /// With --search: how many entries to show
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    top: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PoolingName {
    Mean,
    Cls,
    Max,
    Last,
}

/// An embedder with methods.
#[derive(Debug)]
struct Planned {
    embedder: Embedder,
    plan: Plan,
    made: Made,
    tracing: Option<RefCell<Tracing>>,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    let files = arguments.model.files()?;
    let storage = arguments.model.storage(&files, context)?;
    let plan = arguments.model.live_plan(&arguments.with, &files)?;
    let mut embedder = Embedder::new(&files, &storage, arguments.settings())?;
    embedder.texts = embedder.texts.map(|texts| texts.with(&plan));
    let tracing = arguments.tracing(&embedder)?.map(RefCell::new);
    let made = Made::of(&files, &plan, arguments.pooling);
    let embedder = Planned { embedder, plan, made, tracing };
    let entries = arguments.entries(&embedder.embedder)?;
    if entries.is_empty() {
        return Err(AppError::input("there is nothing to embed", "give texts, one a line, or images"));
    }
    match &arguments.search {
        Some(query) => arguments.search(&embedder, entries, query, context)?,
        None => arguments.write(&embedder, entries, context)?,
    }
    match &embedder.tracing {
        Some(tracing) => tracing.borrow().write(&embedder.plan),
        None => Ok(()),
    }
}

impl Arguments {
    fn tracing(&self, embedder: &Embedder) -> Result<Option<Tracing>, AppError> {
        let Some(path) = &self.trace else { return Ok(None) };
        let images = embedder.images.as_ref().ok_or_else(|| {
            AppError::input("--trace shows images, and the model reads texts alone", "give a model of images")
        })?;
        Tracing::new(path, &self.model.model, images).map(Some)
    }

    fn settings(&self) -> Settings {
        let pooling = self.pooling.map(|name| match name {
            PoolingName::Mean => Pooling::Mean,
            PoolingName::Cls => Pooling::Class,
            PoolingName::Max => Pooling::Max,
            PoolingName::Last => Pooling::Last,
        });
        let normalise = if self.no_normalise { Some(false) } else { self.normalise.then_some(true) };
        Settings { pooling, normalise }
    }

    fn entries(&self, embedder: &Embedder) -> Result<Vec<Entry>, AppError> {
        let mut all = Vec::new();
        for input in &self.inputs {
            if input.as_os_str() == "-" {
                all.extend(lines(io::stdin().lock(), "-", self.jsonl)?);
            } else if input.is_dir() {
                all.extend(folder(input, embedder)?);
            } else if is(input, &["png", "jpg", "jpeg", "webp", "gif"]) {
                all.push(Entry::image(input));
            } else {
                let file = std::fs::File::open(input).map_err(AppError::file("read", input))?;
                all.extend(lines(BufReader::new(file), &input.display().to_string(), is(input, &["jsonl"]))?);
            }
        }
        Ok(all)
    }

    /// The vectors of `entries`, in batches; `each` is given every batch as it is done.
    fn embed(
        &self,
        embedder: &Planned,
        entries: &[Entry],
        mut each: impl FnMut(&[Entry], Vec<Vec<f32>>) -> Result<(), AppError>,
    ) -> Result<(), AppError> {
        let same = |a: &Entry, b: &Entry| {
            matches!(
                (&a.content, &b.content),
                (Content::Text(_), Content::Text(_)) | (Content::Image(_), Content::Image(_))
            )
        };
        for kind in entries.chunk_by(same) {
            for batch in kind.chunks(usize::from(self.batch)) {
                each(batch, vectors(embedder, batch)?)?;
            }
        }
        Ok(())
    }

    fn write(&self, embedder: &Planned, entries: Vec<Entry>, context: &Context) -> Result<(), AppError> {
        if self.jsonl {
            return self
                .embed(embedder, &entries, |batch, vectors| write_lines(batch, vectors, &embedder.made));
        }
        let mut rows = Vec::new();
        self.embed(embedder, &entries, |batch, vectors| {
            rows.extend(batch.iter().map(|entry| entry.name.clone()).zip(vectors));
            Ok(())
        })?;
        let value: Vec<Value> =
            rows.iter().map(|(name, vector)| json!({ "name": name, "embedding": vector })).collect();
        context.emit(&value, || table(&rows))
    }

    fn search(
        &self,
        embedder: &Planned,
        entries: Vec<Entry>,
        query: &str,
        context: &Context,
    ) -> Result<(), AppError> {
        let wanted = vectors(embedder, &[Entry::query(query, &embedder.embedder)])?.remove(0);
        let (stored, entries): (Vec<Entry>, Vec<Entry>) =
            entries.into_iter().partition(|entry| entry.stored.is_some());
        let mut hits =
            stored.iter().map(|entry| entry.hit(&wanted, &embedder.made)).collect::<Result<Vec<_>, _>>()?;
        self.embed(embedder, &entries, |batch, vectors| {
            let hit = |(entry, vector): (&Entry, Vec<f32>)| Hit {
                name: entry.name.clone(),
                cosine: cosine(&wanted, &vector),
            };
            hits.extend(batch.iter().zip(vectors).map(hit));
            Ok(())
        })?;
        hits.sort_by(|a, b| b.cosine.total_cmp(&a.cosine));
        hits.truncate(self.top);
        context.emit(&hits, || {
            let row = |hit: &Hit| vec![format!("{:.4}", hit.cosine), hit.name.clone()];
            output::table(&["cosine", "entry"], hits.iter().map(row))
        })
    }
}

/// The vectors of entries of one kind.
fn vectors(planned: &Planned, entries: &[Entry]) -> Result<Vec<Vec<f32>>, AppError> {
    let embedder = &planned.embedder;
    let (mut texts, mut pictures) = (Vec::new(), Vec::new());
    for entry in entries {
        match &entry.content {
            Content::Text(text) => texts.push(text.clone()),
            Content::Image(path) => pictures.push(Picture::open(path).map_err(AppError::image)?),
        }
    }
    let lacks = |kind: &str| {
        AppError::input(format!("the model takes no {kind}"), "use a model for them, such as CLIP for both")
    };
    match (&embedder.texts, &embedder.images) {
        (None, _) if !texts.is_empty() => Err(lacks("texts")),
        (_, None) if !pictures.is_empty() => Err(lacks("images")),
        (Some(encoder), _) if !texts.is_empty() => Ok(encoder.embed(&texts)?),
        (_, Some(encoder)) => {
            let passes = Passes::new(&planned.plan, encoder.model().config().specials());
            let mut begin = |images| match &planned.tracing {
                Some(tracing) => Some(tracing.borrow().begin(&passes, images)),
                None => passes.begin(images),
            };
            let vectors = encoder.embed_with(&pictures, &mut begin);
            passes.finish()?;
            if let Some(tracing) = &planned.tracing {
                let names = entries.iter().map(|entry| entry.name.as_str());
                let found =
                    names.zip(&pictures).map(|(name, picture)| (name, picture, [Vec::new(), Vec::new()]));
                tracing.borrow_mut().take(found, encoder);
            }
            Ok(vectors)
        }
        _ => Ok(Vec::new()),
    }
}

fn write_lines(entries: &[Entry], vectors: Vec<Vec<f32>>, made: &Made) -> Result<(), AppError> {
    let mut out = io::stdout().lock();
    for (entry, vector) in entries.iter().zip(vectors) {
        let mut fields = entry.fields.clone();
        if fields.is_empty() {
            let (name, content) = match &entry.content {
                Content::Text(text) => ("text", text.clone()),
                Content::Image(path) => ("image", path.display().to_string()),
            };
            fields.insert(name.into(), content.into());
        }
        fields.insert("embedding".into(), json!(vector));
        fields.insert(MADE.into(), json!(made));
        writeln!(out, "{}", Value::Object(fields))?;
    }
    Ok(out.flush()?)
}

fn table(rows: &[(String, Vec<f32>)]) -> String {
    let row = |(name, vector): &(String, Vec<f32>)| {
        let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        let first: Vec<String> = vector.iter().take(4).map(|value| format!("{value:.4}")).collect();
        vec![
            name.clone(),
            vector.len().to_string(),
            format!("{length:.4}"),
            format!("{} ...", first.join(", ")),
        ]
    };
    output::table(&["entry", "values", "length", "vector"], rows.iter().map(row))
}
