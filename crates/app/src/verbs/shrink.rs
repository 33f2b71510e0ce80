use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use whit::load::{Dtype, ModelFiles, gguf};
use whit::measure;
use whit::methods::{Need, Plan, Selection};
use whit::models;
use whit::shrink::search::{self, Choose, Limits};
use whit::shrink::text::{self, Amount, Texts};
use whit::shrink::{self, Calibration, Outcome, Report, ShrinkError, write};

use crate::context::Context;
use crate::error::AppError;
use crate::search::SearchArguments;
use crate::{embedded, interrupt, model, output};

/// Write a model in a smaller form
#[derive(Debug, Args)]
pub struct Arguments {
    /// A model folder, a .gguf file, or a name on the hub (owner/name) [default: the embedded model]
    #[arg(short, long, value_name = "DIR|FILE|NAME")]
    model: Option<String>,

    /// A method that changes the weights; may be repeated, then they are applied in turn
    #[arg(long, value_name = "METHOD[:KNOB=VALUE,...]")]
    with: Vec<String>,

    /// Type of the weights that no method quantises: f32, f16 or bf16; in a .gguf file also q8_0, q4_0,
    /// q4_k, q5_k, q6_k or the mixture q4_k_m [default: q4_k_m for a .gguf file without methods, else as it is]
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,

    /// In a folder, write quantised weights as plain numbers, which every program reads
    #[arg(long)]
    dense: bool,

    /// Where to: a .gguf file, or a new folder
    #[arg(short, long, value_name = "DIR|FILE.gguf")]
    out: PathBuf,

    #[command(flatten)]
    text: TextArguments,

    #[command(flatten)]
    search: SearchArguments,

    /// Print the plan and stop
    #[arg(long)]
    dry_run: bool,

    /// Never use the network
    #[arg(long)]
    offline: bool,
}

/// The text that methods calibrate with.
#[derive(Debug, Args)]
struct TextArguments {
    /// Text to calibrate with, of the kind that the model is for [default: source code of Whit]
    #[arg(long, value_name = "FILE|FOLDER")]
    calibrate: Option<PathBuf>,

    /// Sequences to calibrate with, at most
    #[arg(long, default_value_t = 128)]
    samples: usize,

    /// Tokens of a sequence, at most [default: as the model takes, to 512]
    #[arg(long)]
    length: Option<usize>,
}

#[derive(Serialize)]
struct Shrunk {
    out: String,
    bytes_before: u64,
    bytes_after: u64,
    #[serde(flatten)]
    report: Report,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    interrupt::flag();
    let files = arguments.files()?;
    let facts = models::facts(&files.config)?;
    let plan = Plan::new(&Selection::parse(&arguments.with)?, &facts)?.offline()?;
    if arguments.dry_run {
        return context.emit(&plan.to_json(), || plan.to_string());
    }
    arguments.check()?;
    if let Some(limits) = arguments.search.limits()? {
        return arguments.find(files, limits, context);
    }
    let before = files.weights.total_bytes();
    let report = match arguments.is_gguf() && plan.is_plain() {
        true => arguments.store(&files)?,
        false => arguments.change(files, &plan)?,
    };
    let after = size(&arguments.out)?;
    let shrunk =
        Shrunk { out: arguments.out.display().to_string(), bytes_before: before, bytes_after: after, report };
    context.emit(&shrunk, || shrunk.text())
}

impl Arguments {
    fn files(&self) -> Result<ModelFiles, AppError> {
        let options = whit::load::Options { offline: self.offline, ..Default::default() };
        Ok(match &self.model {
            Some(model) => whit::load::open(model, &options)?,
            None => embedded::RUST_LM.open()?,
        })
    }

    fn is_gguf(&self) -> bool {
        self.out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
    }

    /// The model in the form that keeps to `limits`.
    fn find(&self, files: ModelFiles, limits: Limits, context: &Context) -> Result<(), AppError> {
        if !self.is_gguf() {
            return Err(AppError::input(
                "the forms that are searched are those of GGUF files",
                "give --out FILE.gguf",
            ));
        }
        let texts = self.text.read(&files)?;
        let found = self.search.run(files, &texts, limits, &self.out)?;
        context.emit(&found, || found.text())
    }

    /// Refuses what cannot be written before work begins.
    fn check(&self) -> Result<(), AppError> {
        if !self.is_gguf() && self.out.exists() {
            let message = format!("{} exists already", self.out.display());
            return Err(AppError::input(message, "choose another --out, or remove it first"));
        }
        let plain = self.kind.as_deref().is_none_or(|kind| plain_type(kind).is_some());
        if !self.is_gguf() && !plain {
            let message =
                format!("a folder has no weights of type `{}`", self.kind.as_deref().unwrap_or_default());
            return Err(AppError::input(message, "use f32, f16 or bf16, or write a .gguf file"));
        }
        Ok(())
    }

    /// The model as it is, in another type.
    fn store(&self, files: &ModelFiles) -> Result<Report, AppError> {
        let choose = choice(self.kind.as_deref().unwrap_or("q4_k_m"), files)?;
        let bar = model::bar(files.weights.names().len() as u64, "writing");
        gguf::export(files, &self.out, choose, |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
            interrupt::check().is_ok()
        })?;
        bar.finish_and_clear();
        Ok(Report::default())
    }

    /// The model after the methods of `plan`.
    fn change(&self, files: ModelFiles, plan: &Plan) -> Result<Report, AppError> {
        let texts = self.text.of(&files, plan)?;
        let calibration = texts.map_or_else(Calibration::default, |texts| texts.calibration);
        let bar = model::bar(0, "blocks");
        let outcome = shrink::shrink(&files, plan, &calibration, &mut |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
            interrupt::check().is_ok()
        })?;
        bar.finish_and_clear();
        self.write(files, outcome)
    }

    fn write(&self, files: ModelFiles, outcome: Outcome) -> Result<Report, AppError> {
        let mut report = outcome.report.clone();
        let own = outcome.weights.plain_type();
        if !self.is_gguf() {
            let packing = if self.dense { None } else { write::packing(&outcome.weights)? };
            let rounded = packing.is_none() && report.lines.iter().any(|line| line.form.starts_with("int"));
            let plain = self.kind.as_deref().and_then(plain_type);
            let plain = plain.unwrap_or(if rounded { Dtype::F32 } else { own });
            write::folder(&files, &outcome, &self.out, write::Numbers { plain, packing })?;
            return Ok(report);
        }
        let choose = choice(self.kind.as_deref().unwrap_or(own_name(own)), &files)?;
        let lost = write::gguf_file(files, outcome, &self.out, choose, |_, _| interrupt::check().is_ok())?;
        if lost > 0 {
            report.notes.push(format!(
                "{lost} matrices have levels that no GGUF type holds; they are stored as --type says, which may round them again"
            ));
        }
        Ok(report)
    }
}

impl TextArguments {
    /// The text, where `plan` needs it or it was given.
    fn of(&self, files: &ModelFiles, plan: &Plan) -> Result<Option<Texts>, AppError> {
        let needs = |need: &Need| matches!(need, Need::Calibration(_));
        let needed = plan.parts().iter().any(|part| part.spec().needs.iter().any(needs));
        if !needed && self.calibrate.is_none() {
            return Ok(None);
        }
        self.read(files).map(Some)
    }

    fn read(&self, files: &ModelFiles) -> Result<Texts, AppError> {
        let Some(tokenizer) = &files.tokenizer else {
            let reason = "the model has no tokenizer.json to read text with".into();
            return Err(ShrinkError::Calibration { reason }.into());
        };
        let context = models::facts(&files.config)?.context;
        let length = self.length.unwrap_or(512).min(context);
        let amount = Amount { samples: self.samples, length, held_out: 32 };
        Ok(match &self.calibrate {
            Some(path) => text::read(path, tokenizer, amount)?,
            None => text::embedded(tokenizer, amount)?,
        })
    }
}

impl Shrunk {
    fn text(&self) -> String {
        let factor = self.bytes_before as f64 / self.bytes_after.max(1) as f64;
        let [before, after] = [self.bytes_before, self.bytes_after].map(measure::bytes);
        let mut text = format!("{}: {after}, {factor:.2} times smaller than {before}", self.out);
        if !self.report.lines.is_empty() {
            text = format!("{}\n{text}", table(&self.report));
        }
        self.report.notes.iter().for_each(|note| text += &format!("\n{note}"));
        text
    }
}

/// One row for each changed matrix.
fn table(report: &Report) -> String {
    let rows = report.lines.iter().map(|line| {
        vec![
            line.tensor.trim_start_matches("model.layers.").trim_end_matches(".weight").to_owned(),
            line.form.clone(),
            format!("{:.2}", line.bits),
            measure::bytes(line.bytes),
            line.error.map_or("–".into(), |error| format!("{:.3} %", 100.0 * error)),
        ]
    });
    let mut text = output::table(&["matrix", "form", "bits", "bytes", "error of the weights"], rows);
    let blocks: Vec<String> =
        report.block_errors.iter().map(|error| format!("{:.2} %", 100.0 * error)).collect();
    if !blocks.is_empty() {
        text += &format!("\nerror of what each block adds: {}", blocks.join(", "));
    }
    text
}

/// Bytes of a file, or of all files of a folder.
fn size(path: &Path) -> Result<u64, AppError> {
    let failed = || AppError::file("read", path);
    if path.is_file() {
        return Ok(std::fs::metadata(path).map_err(failed())?.len());
    }
    let mut bytes = 0;
    for entry in std::fs::read_dir(path).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if entry.path().extension().is_some_and(|ending| ending == "safetensors") {
            bytes += entry.metadata().map_err(failed())?.len();
        }
    }
    Ok(bytes)
}

fn plain_type(kind: &str) -> Option<Dtype> {
    match kind {
        "f16" => Some(Dtype::F16),
        "f32" => Some(Dtype::F32),
        "bf16" => Some(Dtype::Bf16),
        _ => None,
    }
}

fn own_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F16 => "f16",
        Dtype::Bf16 => "bf16",
        _ => "f32",
    }
}

/// The types that `--type` stands for.
fn choice(kind: &str, files: &ModelFiles) -> Result<Choose, AppError> {
    let layers = models::facts(&files.config)?.layers;
    search::types(kind, layers)
        .map_err(|_| AppError::input(format!("--type does not take `{kind}`"), "see `whit shrink --help`"))
}
