//! `whit shrink --fit` and `--loss`: looking for the form of a model that fits.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use whit::load::{ModelFiles, write_atomic};
use whit::measure::bytes;
use whit::shrink::search::{self, Form, Limits, Measured};
use whit::shrink::text::Texts;
use whit::shrink::{plot, write};

use crate::error::AppError;
use crate::{interrupt, model, output};

/// What the form must keep to.
#[derive(Debug, Args)]
pub struct SearchArguments {
    /// Find the form with the least loss that fits into so many bytes, such as 4GB or 500MiB
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["with", "kind"])]
    fit: Option<String>,

    /// Find the smallest form whose loss on held-out text is at most so many percent above the model's own
    #[arg(long, value_name = "PERCENT", conflicts_with_all = ["with", "kind"])]
    loss: Option<String>,

    /// Write a page with the plot of all forms, bytes against loss
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Found {
    forms: Vec<Measured>,
    skipped: Vec<String>,
    /// The loss of the model as it is.
    loss: f64,
    chosen: Form,
    words: String,
}

impl SearchArguments {
    /// The limits, if there are any.
    pub fn limits(&self) -> Result<Option<Limits>, AppError> {
        let bytes = self.fit.as_deref().map(size).transpose()?;
        let loss = self.loss.as_deref().map(percent).transpose()?;
        Ok((bytes.is_some() || loss.is_some()).then_some(Limits { bytes, loss }))
    }

    /// Measures all forms, chooses one and writes it to `out`.
    pub fn run(
        &self,
        files: ModelFiles,
        texts: &Texts,
        limits: Limits,
        out: &Path,
    ) -> Result<Found, AppError> {
        let weights = files.weights.as_ref();
        let (whole, _) = search::judge(&files.config, weights, texts)?;
        let (forms, skipped) = measure_all(&files, texts)?;
        let chosen = search::choose(&forms, limits, whole);
        let words = words(&forms, chosen, limits, whole);
        if let Some(path) = &self.html {
            let title = format!("{} in {} forms", files.origin, forms.len());
            let page = plot::html(&title, &forms, whole, chosen, &words);
            let failed = |reason| whit::load::LoadError::io("write", path, reason);
            write_atomic(path, |file| file.write_all(page.as_bytes()).map_err(failed))?;
        }
        let Some(chosen) = chosen.map(|chosen| chosen.form.clone()) else {
            return Err(AppError::input(words, "allow more bytes or more loss"));
        };
        save(files, &chosen, texts, out)?;
        Ok(Found { forms, skipped, loss: whole, chosen, words })
    }
}

fn measure_all(files: &ModelFiles, texts: &Texts) -> Result<(Vec<Measured>, Vec<String>), AppError> {
    let all = search::forms();
    let bar = model::bar(all.len() as u64, "measuring");
    let (mut forms, mut skipped) = (Vec::new(), Vec::new());
    for form in all {
        match search::measure(files, &form, texts, &mut |_, _| interrupt::check().is_ok()) {
            Ok(measured) => forms.push(measured),
            Err(reason) => {
                interrupt::check()?;
                skipped.push(format!("{}: {reason}", form.name()));
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok((forms, skipped))
}

fn save(files: ModelFiles, form: &Form, texts: &Texts, out: &Path) -> Result<(), AppError> {
    let layers = whit::models::facts(&files.config)?.layers;
    let choose = search::types(&form.kind, layers).map_err(|reason| AppError::input(reason, ""))?;
    let outcome = search::make(&files, form, texts, &mut |_, _| interrupt::check().is_ok())?;
    write::gguf_file(files, outcome, out, choose, |_, _| interrupt::check().is_ok())?;
    Ok(())
}

fn words(forms: &[Measured], chosen: Option<&Measured>, limits: Limits, whole: f64) -> String {
    let mut asked = Vec::new();
    asked.extend(limits.bytes.map(|most| format!("at most {}", bytes(most))));
    asked.extend(limits.loss.map(|most| format!("at most {:.2} % more loss", 100.0 * most)));
    let asked = asked.join(" and ");
    let more = |one: &Measured| plot::more(one.loss, whole);
    match chosen {
        Some(one) => format!(
            "{} is the {} with {asked}: {}, loss {:.4}, which is {} against the model as it is. \
             Write it again with `whit shrink {}`.",
            one.form.name(),
            if limits.bytes.is_some() { "best form" } else { "smallest form" },
            bytes(one.bytes),
            one.loss,
            more(one),
            one.form.arguments()
        ),
        None => {
            let smallest = forms.iter().min_by_key(|one| one.bytes);
            let smallest = smallest.map_or(String::new(), |one| {
                format!(
                    "; the smallest is {} with {} and {} loss",
                    one.form.name(),
                    bytes(one.bytes),
                    more(one)
                )
            });
            format!("no form of the model has {asked}{smallest}")
        }
    }
}

impl Found {
    /// The table and the choice, for people.
    pub fn text(&self) -> String {
        let rows = self.forms.iter().map(|one| {
            let mark = if one.form == self.chosen {
                "chosen"
            } else if search::on_front(one, &self.forms) {
                "not beaten"
            } else {
                ""
            };
            let more = plot::more(one.loss, self.loss);
            let (loss, bits) = (format!("{:.4}", one.loss), format!("{:.4}", one.bits_per_byte));
            vec![one.form.name(), bytes(one.bytes), loss, more, bits, mark.into()]
        });
        let table = output::table(&["form", "bytes", "loss", "more", "bits a byte", ""], rows);
        let skipped: String = self.skipped.iter().map(|why| format!("\nnot tried: {why}")).collect();
        format!("{table}{skipped}\n{}", self.words)
    }
}

/// A number of bytes such as `4GB`, `3.5MiB` or `7000000`.
fn size(text: &str) -> Result<u64, AppError> {
    let at = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => Some(1.0),
        "kb" => Some(1e3),
        "mb" => Some(1e6),
        "gb" => Some(1e9),
        "kib" => Some(1024.0),
        "mib" => Some(1024.0 * 1024.0),
        "gib" => Some(1024.0 * 1024.0 * 1024.0),
        _ => None,
    };
    let value = number.trim().parse::<f64>().ok().filter(|value| value.is_finite() && *value > 0.0);
    match value.zip(factor) {
        Some((value, factor)) => Ok((value * factor) as u64),
        None => Err(AppError::input(
            format!("--fit does not take `{text}`"),
            "write a size such as 4GB, 500MB or 3.5GiB",
        )),
    }
}

/// A share such as `1%` or `0.5`, in percent.
fn percent(text: &str) -> Result<f64, AppError> {
    let value = text.trim().trim_end_matches('%').trim().parse::<f64>().ok();
    match value.filter(|value| value.is_finite() && *value >= 0.0) {
        Some(value) => Ok(value / 100.0),
        None => {
            Err(AppError::input(format!("--loss does not take `{text}`"), "write percent, such as 1% or 0.5"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_shares_are_read() {
        assert_eq!(size("4GB").unwrap(), 4_000_000_000);
        assert_eq!(size("1.5 MiB").unwrap(), 1_572_864);
        assert_eq!(size("700").unwrap(), 700);
        assert_eq!((percent("1%").unwrap(), percent("0.5").unwrap()), (0.01, 0.005));
        for text in ["", "GB", "-1GB", "4XB", "infGB", "nan"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert!(percent("-1").is_err() && percent("much").is_err());
    }
}
