//! The collapse of a text encoder measured on texts, with methods and without, and drawn.

use std::fmt::Write;

use whit_kernels::op;

use super::collapse::Collapse;
use super::sheet;
use super::write::escape;
use crate::load::{LoadError, Tokenizer};
use crate::methods::Plan;
use crate::nn::attention::Separate;
use crate::nn::encoder::{Encoder, EncoderTokens};
use crate::nn::tempered::Tempered;

/// Texts that are embedded at several lengths, each with a part of itself that is to find it again.
#[derive(Debug)]
pub struct Sweep<'a> {
    model: &'a Encoder,
    /// What the tokenizer puts before and behind a text.
    marks: [Vec<u32>; 2],
    documents: Vec<Vec<u32>>,
    part: usize,
}

impl<'a> Sweep<'a> {
    /// The first `count` of `texts` that have `longest` tokens; a part has `part` tokens.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn new(
        (model, tokenizer): (&'a Encoder, &Tokenizer),
        texts: impl Iterator<Item = String>,
        count: usize,
        [longest, part]: [usize; 2],
    ) -> Result<Self, LoadError> {
        let (bare, marked) = (tokenizer.encode("a", false)?, tokenizer.encode("a", true)?);
        let before = (0..marked.len()).find(|&at| marked[at..].starts_with(&bare)).unwrap_or(0);
        let behind = marked[(before + bare.len()).min(marked.len())..].to_vec();
        let mut documents = Vec::new();
        for text in texts {
            let mut tokens = tokenizer.encode(&text, false)?;
            if tokens.len() >= longest && documents.len() < count {
                tokens.truncate(longest);
                documents.push(tokens);
            }
        }
        Ok(Self { model, marks: [marked[..before].to_vec(), behind], documents, part })
    }

    /// How many texts were long enough.
    pub fn texts(&self) -> usize {
        self.documents.len()
    }

    /// How alike the texts are at each of `lengths`, with the temperatures of `plan`.
    pub fn measure(&self, lengths: &[usize], plan: &Plan) -> Vec<Collapse> {
        let scale = plan.begin().scale;
        let temperature = |layer| scale.as_ref().map_or(1.0, |scale| scale.temperature(layer));
        let temperatures: Vec<f32> = (0..self.model.config().layers).map(temperature).collect();
        let embed = |from: usize, length: usize| -> Vec<Vec<f32>> {
            let rows = self.documents.iter().map(|tokens| &tokens[from..from + length]);
            rows.map(|row| self.embed(row, &temperatures)).collect()
        };
        let one = |&length: &usize| {
            let part = self.part.min(length);
            // From the middle, so that neither the beginning nor the end gives it away.
            Collapse::of(length, &embed(0, length), &embed((length - part) / 2, part))
        };
        lengths.iter().map(one).collect()
    }

    /// The mean of a text's tokens.
    fn embed(&self, tokens: &[u32], temperatures: &[f32]) -> Vec<f32> {
        let ids = [&self.marks[0][..], tokens, &self.marks[1][..]].concat();
        let config = self.model.config();
        let (positions, types) = (config.positions(&ids), vec![0; ids.len()]);
        let attention = Separate {
            causal: config.causal,
            bias: self.model.relative_bias(ids.len()),
            ..Separate::new(vec![ids.len()])
        };
        let rows = EncoderTokens { ids: &ids, positions: &positions, types: &types };
        let mut attend = Tempered::new(attention, temperatures.to_vec());
        op::host(self.model.forward(rows, &mut attend).mean_dim(0)).into_vec()
    }
}

const COLOURS: [&str; 6] = ["#222", "#3a7", "#27c", "#c40", "#93c", "#a80"];
const WIDE: f64 = 360.0;
const HIGH: f64 = 260.0;

/// A page with both measures over the length, a line for each of the named rows.
pub fn page(title: &str, rows: &[(String, Vec<Collapse>)]) -> String {
    let cosine = plot("mean cosine of two texts", rows, |one| one.cosine);
    let recall = plot("parts that find their text", rows, |one| one.recall);
    sheet::page(title, "", &(sheet::heading(title) + &cosine + &recall))
}

fn plot(name: &str, rows: &[(String, Vec<Collapse>)], value: fn(&Collapse) -> f64) -> String {
    let all = || rows.iter().flat_map(|(_, found)| found);
    let longest = all().map(|one| one.tokens).max().unwrap_or(1) as f64;
    let (low, high) = all().map(value).fold((f64::MAX, f64::MIN), |(low, high), y| (low.min(y), high.max(y)));
    let x = |one: &Collapse| 50.0 + one.tokens as f64 / longest * (WIDE - 130.0);
    let y = |at: f64| HIGH - 40.0 - (at - low) / (high - low).max(1e-9) * (HIGH - 80.0);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDE} {HIGH}\" role=img aria-label=\"{name} by tokens\">");
    let base = HIGH - 25.0;
    let _ =
        write!(svg, "<path class=axis d=\"M50 20V{base}H{}\"/><text x=50 y=14>{name}</text>", WIDE - 70.0);
    let _ =
        write!(svg, "<text x=4 y={:.1}>{low:.3}</text><text x=4 y={:.1}>{high:.3}</text>", y(low), y(high));
    for one in rows.first().map_or(&[][..], |(_, found)| found.as_slice()) {
        let _ = write!(svg, "<text x={:.1} y={}>{}</text>", x(one) - 8.0, HIGH - 8.0, one.tokens);
    }
    for ((label, found), colour) in rows.iter().zip(COLOURS.iter().cycle()) {
        let points: Vec<String> =
            found.iter().map(|one| format!("{:.1},{:.1}", x(one), y(value(one)))).collect();
        let _ = write!(
            svg,
            "<polyline fill=none stroke=\"{colour}\" stroke-width=2 points=\"{}\"/>",
            points.join(" ")
        );
        if let Some(last) = found.last() {
            let (x, y, label) = (x(last) + 4.0, y(value(last)) + 4.0, escape(label));
            let _ = write!(svg, "<text x={x:.1} y={y:.1} fill=\"{colour}\">{label}</text>");
        }
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_a_line_for_each_row() {
        let found = |cosine| vec![Collapse { tokens: 32, texts: 2, cosine, recall: 1.0 }];
        let page = page("a < b", &[("1".into(), found(0.3)), ("0.5".into(), found(0.2))]);
        assert_eq!(page.matches("<polyline").count(), 4);
        assert!(page.contains("a &lt; b") && page.contains("0.300"));
    }
}
