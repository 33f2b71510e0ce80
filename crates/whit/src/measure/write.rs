//! The writers of records: csv, markdown, and a page that needs nothing but itself.

use std::fmt::Write;

use super::bytes;
use super::record::{Record, Setting};
use super::sheet::{self, Labels};

/// A column: its name, and how a record fills it.
pub type Column<R> = (&'static str, fn(&R) -> String);

/// A record that can be a row of a table.
pub trait Row: Sized + 'static {
    /// What people read.
    const COLUMNS: &'static [Column<Self>];
    /// What programs read, in full precision.
    const VALUES: &'static [Column<Self>];

    /// What it is a record of.
    fn name(&self) -> &str;

    /// What one should know before believing the numbers.
    fn warnings(&self) -> &[String];
}

impl Row for Record {
    const COLUMNS: &'static [Column<Self>] = &[
        ("methods", |record| record.methods.clone()),
        ("prompt", |record| record.prompt_tokens.to_string()),
        ("first token (s)", |record| format!("{:.3}", record.first_token_seconds.median)),
        ("prompt (tokens/s)", |record| format!("{:.1}", record.prompt_rate)),
        ("decode (tokens/s)", |record| format!("{:.1}", record.decode_rate)),
        ("speed-up", |record| record.speedup.to_string()),
        ("tokens/pass", |record| format!("{:.2}", record.tokens_per_pass)),
        ("decode GMACs", |record| format!("{:.1}", record.decode_gmacs)),
        ("cache", |record| bytes(record.cache_bytes as u64)),
        ("same tokens", |record| format!("{:.1} %", 100.0 * record.agreement)),
        ("loss", |record| record.loss.map_or(NOTHING.into(), |loss| format!("{loss:.4}"))),
    ];

    const VALUES: &'static [Column<Self>] = &[
        ("time", |record| record.setting.time.to_string()),
        ("model", |record| quoted(&record.setting.model)),
        ("dtype", |record| record.setting.dtype.clone()),
        ("trained", |record| record.setting.trained.to_string()),
        ("threads", |record| record.setting.threads.to_string()),
        ("processor", |record| quoted(&record.setting.processor)),
        ("methods", |record| quoted(&record.methods)),
        ("original_tokens", |record| record.original_tokens.to_string()),
        ("prompt_tokens", |record| record.prompt_tokens.to_string()),
        ("new_tokens", |record| record.new_tokens.to_string()),
        ("first_token_seconds", |record| record.first_token_seconds.median.to_string()),
        ("first_token_speedup", |record| record.first_token_speedup.median.to_string()),
        ("prompt_rate", |record| record.prompt_rate.to_string()),
        ("decode_seconds", |record| record.decode_seconds.median.to_string()),
        ("decode_spread", |record| record.decode_seconds.spread.to_string()),
        ("decode_rate", |record| record.decode_rate.to_string()),
        ("speedup", |record| record.speedup.median.to_string()),
        ("tokens_per_pass", |record| record.tokens_per_pass.to_string()),
        ("decode_gmacs", |record| record.decode_gmacs.to_string()),
        ("cache_bytes", |record| record.cache_bytes.to_string()),
        ("weight_bytes", |record| record.weight_bytes.to_string()),
        ("peak_bytes", |record| record.peak_bytes.map_or(String::new(), |peak| peak.to_string())),
        ("agreement", |record| record.agreement.to_string()),
        ("loss", |record| record.loss.map_or(String::new(), |loss| loss.to_string())),
        ("warnings", |record| quoted(&record.warnings.join("; "))),
    ];

    fn name(&self) -> &str {
        &self.methods
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// What stands where there is nothing to say.
const NOTHING: &str = "–";

/// The names of the columns, and the cells of every row; columns in which nothing is said are left out.
pub fn cells<R: Row>(records: &[R]) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let says = |(_, cell): &&Column<R>| records.iter().any(|record| cell(record) != NOTHING);
    let columns: Vec<&Column<R>> = R::COLUMNS.iter().filter(says).collect();
    let row = |record: &R| columns.iter().map(|(_, cell)| cell(record)).collect();
    (columns.iter().map(|(name, _)| *name).collect(), records.iter().map(row).collect())
}

/// A markdown table, with the warnings below.
pub fn markdown<R: Row>(records: &[R]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let (head, rows) = cells(records);
    let rule = format!("|{}\n", "---|".repeat(head.len()));
    let mut text = line(head.into_iter().map(str::to_owned).collect()) + &rule;
    rows.into_iter().for_each(|row| text += &line(row));
    for record in records {
        record.warnings().iter().for_each(|warning| text += &format!("\n- {}: {warning}", record.name()));
    }
    text
}

/// Comma-separated values with full precision.
pub fn csv<R: Row>(records: &[R]) -> String {
    let names: Vec<&str> = R::VALUES.iter().map(|(name, _)| *name).collect();
    let line = |record: &R| R::VALUES.iter().map(|(_, value)| value(record)).collect::<Vec<_>>().join(",");
    std::iter::once(names.join(",")).chain(records.iter().map(line)).map(|line| line + "\n").collect()
}

/// A text as one value among those that commas part.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// A page with the table, the plot of speed against sameness, and sections of the caller's own HTML.
pub fn html(title: &str, records: &[Record], sections: &str) -> String {
    let mut body = sheet::heading(title);
    if let Some(record) = records.first() {
        body += &record.setting.html();
        body += &table(records);
        body += &warnings(records);
        body += &plot(records);
    }
    sheet::page(title, "", &(body + sections))
}

impl Setting {
    /// A line that says it.
    pub fn html(&self) -> String {
        let kind = if self.trained { "trained weights" } else { "random weights: speed only" };
        let line = format!(
            "{} · {} · {kind} · {} threads · {} · {} rounds, interleaved · Whit {}",
            self.model, self.dtype, self.threads, self.processor, self.rounds, self.version
        );
        format!("<p class=setting>{}</p>", escape(&line))
    }
}

/// Text as it stands in HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The records as a table.
pub fn table<R: Row>(records: &[R]) -> String {
    let marked = |tag: &str, cell: &str| format!("<{tag}>{}</{tag}>", escape(cell));
    let (head, rows) = cells(records);
    let head: String = head.into_iter().map(|name| marked("th", name)).collect();
    let row = |row: Vec<String>| row.iter().map(|cell| marked("td", cell)).collect::<String>();
    let rows: String = rows.into_iter().map(|cells| format!("<tr>{}</tr>", row(cells))).collect();
    format!("<table><tr>{head}</tr>{rows}</table>")
}

/// What one should know of the records before believing the numbers.
pub fn warnings<R: Row>(records: &[R]) -> String {
    let mut text = String::new();
    for record in records.iter().filter(|record| !record.warnings().is_empty()) {
        let warnings = escape(&record.warnings().join("; "));
        text += &format!("<p class=warning><b>{}</b>: {warnings}</p>", escape(record.name()));
    }
    text
}

/// Decoding speed against the share of tokens that stay the same; up and right is better. The line
/// joins the variants that no other one beats in both.
fn plot(records: &[Record]) -> String {
    const WIDE: f64 = 640.0;
    const HIGH: f64 = 300.0;
    let fastest = records.iter().map(|record| record.decode_rate).fold(1e-9, f64::max) * 1.1;
    let least = records.iter().map(|record| record.agreement).fold(1.0, f64::min);
    let bottom = (least - 0.05).max(0.0);
    let at = |rate: f64| 60.0 + rate / fastest * (WIDE - 180.0);
    let x = |record: &Record| at(record.decode_rate);
    let y = |record: &Record| 20.0 + (1.0 - record.agreement) / (1.0 - bottom).max(1e-9) * (HIGH - 70.0);
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDE} {HIGH}\" role=img aria-label=\"speed against sameness\">");
    let base = HIGH - 40.0;
    let _ = write!(svg, "<path class=axis d=\"M60 10V{base}H{}\"/>", WIDE - 20.0);
    let _ = write!(svg, "<text x=300 y={}>decode, tokens a second</text>", HIGH - 8.0);
    let _ = write!(svg, "<text x=4 y=24>100 %</text><text x=4 y={base}>{:.0} %</text>", bottom * 100.0);
    for rate in sheet::ticks(0.0, fastest, 4) {
        let _ = write!(svg, "<text x={:.1} y={} text-anchor=middle>{rate}</text>", at(rate), base + 16.0);
    }
    let beaten = |one: &Record| {
        records.iter().any(|other| other.decode_rate > one.decode_rate && other.agreement > one.agreement)
    };
    let mut front: Vec<&Record> = records.iter().filter(|record| !beaten(record)).collect();
    front.sort_by(|a, b| a.decode_rate.total_cmp(&b.decode_rate));
    let points: Vec<String> =
        front.iter().map(|record| format!("{:.1},{:.1}", x(record), y(record))).collect();
    let _ = write!(svg, "<polyline class=front points=\"{}\"/>", points.join(" "));
    let mut labels = Labels::among(records.iter().map(|record| (x(record), y(record))));
    for record in records {
        let class = if beaten(record) { " class=beaten" } else { "" };
        let _ = write!(svg, "<circle{class} cx={:.1} cy={:.1} r=5 />", x(record), y(record));
        labels.put(x(record), y(record), &record.methods, 60.0..WIDE);
    }
    svg + &labels.svg() + "</svg>"
}
