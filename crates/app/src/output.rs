//! Writing results: tidy tables for people, JSON for programs.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, LineStyle, Table, TableStyle, presets};
use serde::Serialize;
use whit::measure::write::{self, Row};

use crate::error::AppError;

/// Writes a text and a line break.
pub fn text(text: &str) -> Result<(), AppError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end())?;
    Ok(out.flush()?)
}

/// Writes a value as indented JSON.
pub fn json(value: &impl Serialize) -> Result<(), AppError> {
    let json = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    text(&json)
}

/// A line under the head and no others.
const RULED: TableStyle = presets::NOTHING.header_separator(LineStyle::none().fill('─').junction('─'));

/// A table with a head, as wide as the terminal allows.
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(RULED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(head.iter().copied());
    table.add_rows(rows);
    trimmed(&table)
}

/// Records as a table.
pub fn records<R: Row>(records: &[R]) -> String {
    let (head, rows) = write::cells(records);
    table(&head, rows)
}

/// Pairs of a name and what there is to say about it, without lines.
pub fn pairs(rows: impl IntoIterator<Item = (String, String)>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.add_rows(rows.into_iter().map(|(name, value)| [name, value]));
    trimmed(&table)
}

fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// The width that running text is broken to.
const WIDTH: usize = 88;

/// Breaks each line of `text` at [`WIDTH`] and indents it. Lines keep their own indent, and list items hang.
pub fn wrap(text: &str, indent: usize) -> String {
    text.lines().map(|line| wrap_line(line, indent)).collect::<Vec<_>>().join("\n")
}

/// Joins the lines of each paragraph and list item of a Markdown text, so that [`wrap`] can break them anew.
pub fn joined(markdown: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in markdown.lines().map(str::trim) {
        match lines.last_mut() {
            Some(last) if !last.is_empty() && !line.is_empty() && hang(line) == 0 => {
                last.push(' ');
                last.push_str(line);
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n")
}

/// How far the following lines of a list item are indented: 0 for what is no list item.
fn hang(line: &str) -> usize {
    let marker = line.split(' ').next().unwrap_or_default();
    let number = marker.strip_suffix('.').is_some_and(|digits| digits.parse::<u32>().is_ok());
    if number || marker == "-" { marker.len() + 1 } else { 0 }
}

fn wrap_line(line: &str, indent: usize) -> String {
    let trimmed = line.trim_start();
    let first = indent + line.len() - trimmed.len();
    let rest = " ".repeat(first + hang(trimmed));
    let mut wrapped = " ".repeat(first);
    let mut column = first;
    for word in trimmed.split_whitespace() {
        let width = word.chars().count();
        if column > rest.len() && column + 1 + width > WIDTH {
            wrapped.push('\n');
            wrapped.push_str(&rest);
            column = rest.len();
        } else if column > first {
            wrapped.push(' ');
            column += 1;
        }
        wrapped.push_str(word);
        column += width;
    }
    wrapped.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_broken_and_items_hang() {
        let long = "word ".repeat(30);
        let wrapped = wrap(&format!("1. {long}"), 2);
        let lines: Vec<_> = wrapped.lines().collect();
        assert!(lines[0].starts_with("  1. word") && lines[1].starts_with("     word"));
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH));
        assert_eq!(wrapped.matches("word").count(), 30);
    }

    #[test]
    fn short_lines_and_blank_lines_stay() {
        assert_eq!(wrap("a\n    b\n\nc", 2), "  a\n      b\n\n  c");
    }

    #[test]
    fn paragraphs_and_items_are_joined() {
        assert_eq!(joined("a\nb\n\n- c\n  d\n- e\n1. f\n   g"), "a b\n\n- c d\n- e\n1. f g");
    }

    #[test]
    fn tables_have_no_trailing_spaces() {
        let table = table(&["a", "b"], [vec!["1".into(), String::new()]]);
        assert!(table.lines().all(|line| !line.ends_with(' ')), "{table}");
    }
}
