//! The writers of records: csv, markdown, and a page that needs nothing but itself.

use std::fmt::Write;

use super::bytes;
use super::record::Record;
use super::sheet::{self, Labels};

/// A column: its name, and how a record fills it.
type Column = (&'static str, fn(&Record) -> String);

/// The columns of the tables, with how a record fills them.
const COLUMNS: [Column; 11] = [
    ("methods", |record| record.methods.clone()),
    ("prompt", |record| record.prompt_tokens.to_string()),
    ("first token (s)", |record| format!("{:.3}", record.first_token_seconds.median)),
    ("prompt (tokens/s)", |record| format!("{:.1}", record.prompt_rate)),
    ("decode (tokens/s)", |record| format!("{:.1}", record.decode_rate)),
    ("speed-up", |record| {
        format!("{:.2} ± {:.2}", record.speedup.median, record.speedup.spread * record.speedup.median / 2.0)
    }),
    ("tokens/pass", |record| format!("{:.2}", record.tokens_per_pass)),
    ("decode GMACs", |record| format!("{:.1}", record.decode_gmacs)),
    ("cache", |record| bytes(record.cache_bytes as u64)),
    ("same tokens", |record| format!("{:.1} %", 100.0 * record.agreement)),
    ("loss", |record| record.loss.map_or("–".into(), |loss| format!("{loss:.4}"))),
];

/// The names of the columns.
pub fn head() -> Vec<&'static str> {
    COLUMNS.iter().map(|(name, _)| *name).collect()
}

/// The cells of a record's row.
pub fn row(record: &Record) -> Vec<String> {
    COLUMNS.iter().map(|(_, cell)| cell(record)).collect()
}

/// A markdown table, with the warnings below.
pub fn markdown(records: &[Record]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(head().into_iter().map(str::to_owned).collect());
    text += &format!("|{}\n", "---|".repeat(COLUMNS.len()));
    records.iter().for_each(|record| text += &line(row(record)));
    for record in records {
        record.warnings.iter().for_each(|warning| text += &format!("\n- {}: {warning}", record.methods));
    }
    text
}

/// Comma-separated values with full precision.
pub fn csv(records: &[Record]) -> String {
    let mut text = String::from(
        "time,model,dtype,trained,threads,processor,methods,original_tokens,prompt_tokens,new_tokens,\
         first_token_seconds,first_token_speedup,prompt_rate,decode_seconds,decode_spread,decode_rate,speedup,tokens_per_pass,decode_gmacs,cache_bytes,\
         weight_bytes,peak_bytes,agreement,loss,warnings\n",
    );
    for record in records {
        let setting = &record.setting;
        let cells = [
            setting.time.to_string(),
            quoted(&setting.model),
            setting.dtype.clone(),
            setting.trained.to_string(),
            setting.threads.to_string(),
            quoted(&setting.processor),
            quoted(&record.methods),
            record.original_tokens.to_string(),
            record.prompt_tokens.to_string(),
            record.new_tokens.to_string(),
            record.first_token_seconds.median.to_string(),
            record.first_token_speedup.median.to_string(),
            record.prompt_rate.to_string(),
            record.decode_seconds.median.to_string(),
            record.decode_seconds.spread.to_string(),
            record.decode_rate.to_string(),
            record.speedup.median.to_string(),
            record.tokens_per_pass.to_string(),
            record.decode_gmacs.to_string(),
            record.cache_bytes.to_string(),
            record.weight_bytes.to_string(),
            record.peak_bytes.map_or(String::new(), |peak| peak.to_string()),
            record.agreement.to_string(),
            record.loss.map_or(String::new(), |loss| loss.to_string()),
            quoted(&record.warnings.join("; ")),
        ];
        text += &cells.join(",");
        text.push('\n');
    }
    text
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// A page with the table, the plot of speed against sameness, and sections of the caller's own HTML.
pub fn html(title: &str, records: &[Record], sections: &str) -> String {
    let mut body = sheet::heading(title);
    if let Some(record) = records.first() {
        let setting = &record.setting;
        let kind = if setting.trained { "trained weights" } else { "random weights: speed only" };
        let line = format!(
            "{} · {} · {kind} · {} threads · {} · {} rounds, interleaved · Whit {}",
            setting.model, setting.dtype, setting.threads, setting.processor, setting.rounds, setting.version
        );
        body += &format!("<p class=setting>{}</p>", escape(&line));
        body += &table(records);
        body += &plot(records);
    }
    sheet::page(title, "", &(body + sections))
}

/// Text as it stands in HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn table(records: &[Record]) -> String {
    let cells = |tag: &str, cells: Vec<String>| -> String {
        cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect()
    };
    let mut text =
        format!("<table><tr>{}</tr>", cells("th", head().into_iter().map(str::to_owned).collect()));
    for record in records {
        text += &format!("<tr>{}</tr>", cells("td", row(record)));
    }
    text += "</table>";
    for record in records.iter().filter(|record| !record.warnings.is_empty()) {
        let warnings = escape(&record.warnings.join("; "));
        text += &format!("<p class=warning><b>{}</b>: {warnings}</p>", escape(&record.methods));
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
    let x = |record: &Record| 60.0 + record.decode_rate / fastest * (WIDE - 180.0);
    let y = |record: &Record| 20.0 + (1.0 - record.agreement) / (1.0 - bottom).max(1e-9) * (HIGH - 70.0);
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDE} {HIGH}\" role=img aria-label=\"speed against sameness\">");
    let base = HIGH - 40.0;
    let _ = write!(svg, "<path class=axis d=\"M60 10V{base}H{}\"/>", WIDE - 20.0);
    let _ = write!(svg, "<text x=300 y={}>decode, tokens a second</text>", HIGH - 8.0);
    let _ = write!(svg, "<text x=4 y=24>100 %</text><text x=4 y={base}>{:.0} %</text>", bottom * 100.0);
    for share in [0.25, 0.5, 0.75, 1.0] {
        let _ = write!(
            svg,
            "<text x={} y={}>{:.0}</text>",
            50.0 + share * (WIDE - 180.0),
            base + 16.0,
            share * fastest
        );
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
        labels.put(x(record), y(record), &record.methods, WIDE);
    }
    svg + &labels.svg() + "</svg>"
}
