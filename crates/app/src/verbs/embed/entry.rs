//! What is embedded: lines, files and folders, and the vectors that lines of an index already have.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};
use whit::embed::{Embedder, cosine};

use super::made::Made;
use crate::error::AppError;
use crate::verbs::classify::images;

/// The field of a line that says what its vector was made with.
pub(super) const MADE: &str = "embedded_by";

/// An entry that was found.
#[derive(Debug, Serialize)]
pub(super) struct Hit {
    pub(super) name: String,
    pub(super) cosine: f32,
}

/// Something to embed.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    /// The line's other fields.
    pub(super) fields: Map<String, Value>,
    pub(super) content: Content,
    /// Its vector, where the line has one and says what made it.
    pub(super) stored: Option<(Made, Vec<f32>)>,
}

#[derive(Debug)]
pub(super) enum Content {
    Text(String),
    Image(PathBuf),
}

impl Entry {
    /// Compares the stored vector with `wanted`.
    pub(super) fn hit(&self, wanted: &[f32], made: &Made) -> Result<Hit, AppError> {
        match &self.stored {
            Some((by, vector)) if by == made && vector.len() == wanted.len() => {
                Ok(Hit { name: self.name.clone(), cosine: cosine(wanted, vector) })
            }
            by => {
                let by = by.as_ref().map(|(by, _)| by.to_string()).unwrap_or_default();
                Err(AppError::input(
                    format!(
                        "`{}` was embedded by {by}, and the query by {made}: they cannot be compared",
                        self.name
                    ),
                    "search with the same model and methods, or embed the texts again with --jsonl",
                ))
            }
        }
    }

    pub(super) fn image(path: &Path) -> Self {
        let name = path.display().to_string();
        Self { name, fields: Map::new(), content: Content::Image(path.to_owned()), stored: None }
    }

    fn text(name: String, text: String) -> Self {
        Self { name, fields: Map::new(), content: Content::Text(text), stored: None }
    }

    /// A query: a text with what the model's authors put before one, or an image.
    pub(super) fn query(query: &str, embedder: &Embedder) -> Self {
        match &embedder.texts {
            Some(texts) => {
                let prompt = texts.prompts()[0].as_deref().unwrap_or_default();
                Self::text("the query".into(), format!("{prompt}{query}"))
            }
            None => Self::image(Path::new(query)),
        }
    }

    /// A line of a file: a text, or an object with `text` or `image`.
    fn line(line: &str, place: &str, json: bool) -> Result<Self, AppError> {
        if !json {
            return Ok(Self::text(line.chars().take(60).collect(), line.to_owned()));
        }
        let wrong = |reason: String| {
            AppError::input(
                format!("{place}: {reason}"),
                "each line must be a JSON text, or an object with `text` or `image`",
            )
        };
        let mut fields = match serde_json::from_str(line).map_err(|reason| wrong(reason.to_string()))? {
            Value::String(text) => return Ok(Self::text(text.chars().take(60).collect(), text)),
            Value::Object(fields) => fields,
            _ => return Err(wrong("it is neither a text nor an object".into())),
        };
        let mut entry = match (fields.get("text"), fields.get("image")) {
            (Some(Value::String(text)), None) => Self::text(text.chars().take(60).collect(), text.clone()),
            (None, Some(Value::String(path))) => Self::image(Path::new(path)),
            _ => return Err(wrong("it has not one of `text` and `image`, as a string".into())),
        };
        let (vector, made) = (fields.remove("embedding"), fields.remove(MADE));
        if let (Some(vector), Some(made)) = (vector, made) {
            let read = || Some((serde_json::from_value(made).ok()?, serde_json::from_value(vector).ok()?));
            entry.stored = Some(read().ok_or_else(|| wrong(format!("`embedding` or `{MADE}` is damaged")))?);
        }
        entry.fields = fields;
        Ok(entry)
    }
}

pub(super) fn is(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    ending.is_some_and(|ending| endings.contains(&ending.as_str()))
}

pub(super) fn lines(reader: impl BufRead, name: &str, json: bool) -> Result<Vec<Entry>, AppError> {
    let mut entries = Vec::new();
    for (number, line) in reader.lines().enumerate() {
        let line = line.map_err(AppError::file("read", Path::new(name)))?;
        if !line.trim().is_empty() {
            entries.push(Entry::line(&line, &format!("{name}, line {}", number + 1), json)?);
        }
    }
    Ok(entries)
}

/// The images of a folder, or its texts if the model sees no images.
pub(super) fn folder(path: &Path, embedder: &Embedder) -> Result<Vec<Entry>, AppError> {
    if embedder.images.is_some() {
        return Ok(images(&[path.to_owned()])?.iter().map(|path| Entry::image(path)).collect());
    }
    let listed = std::fs::read_dir(path).map_err(AppError::file("read", path))?;
    let mut files: Vec<PathBuf> =
        listed.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| is(path, &["txt", "md"])).collect();
    files.sort();
    if files.is_empty() {
        let message = format!("{} holds no texts", path.display());
        return Err(AppError::input(message, "files that end in .txt and .md are looked for"));
    }
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).map_err(AppError::file("read", path))?;
        Ok(Entry::text(path.display().to_string(), text))
    };
    files.iter().map(read).collect()
}
