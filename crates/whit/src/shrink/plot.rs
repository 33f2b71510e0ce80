//! A page with the forms of a model: bytes against loss. It needs nothing but itself.

use std::fmt::Write;

use super::search::{Measured, on_front};
use crate::measure::bytes;
use crate::measure::write::{STYLE, escape};

const WIDE: f64 = 720.0;
const HIGH: f64 = 360.0;

/// The page: a plot, whose line joins the forms that no other one beats in both, and a table. `chosen`
/// is marked; `words` say why.
pub fn html(title: &str, measured: &[Measured], chosen: Option<&Measured>, words: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}.chosen{{fill:#c40}}</style><main><h1>{title}</h1><p>{}</p>{}{}</main></html>\n",
        escape(words),
        plot(measured, chosen),
        table(measured, chosen)
    )
}

fn plot(measured: &[Measured], chosen: Option<&Measured>) -> String {
    let most = measured.iter().map(|one| one.bytes).max().unwrap_or(1) as f64 * 1.05;
    let losses = || measured.iter().map(|one| one.loss);
    let (low, high) = (losses().fold(f64::INFINITY, f64::min), losses().fold(0.0, f64::max));
    let x = |one: &Measured| 70.0 + one.bytes as f64 / most * (WIDE - 240.0);
    let y = |one: &Measured| HIGH - 60.0 - (one.loss - low) / (high - low).max(1e-9) * (HIGH - 100.0);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDE} {HIGH}\" role=img aria-label=\"bytes against loss\">");
    let base = HIGH - 40.0;
    let _ = write!(svg, "<path class=axis d=\"M70 10V{base}H{}\"/>", WIDE - 20.0);
    let _ = write!(svg, "<text x=300 y={}>bytes of the tensors</text><text x=4 y=14>loss</text>", HIGH - 6.0);
    let _ = write!(svg, "<text x=4 y={}>{low:.4}</text><text x=4 y=44>{high:.4}</text>", HIGH - 56.0);
    for share in [0.25, 0.5, 0.75, 1.0] {
        let at = 60.0 + share * (WIDE - 240.0);
        let _ = write!(svg, "<text x={at} y={}>{}</text>", base + 16.0, bytes((share * most) as u64));
    }
    let mut front: Vec<&Measured> = measured.iter().filter(|one| on_front(one, measured)).collect();
    front.sort_by_key(|one| one.bytes);
    let points: Vec<String> = front.iter().map(|one| format!("{:.1},{:.1}", x(one), y(one))).collect();
    let _ = write!(svg, "<polyline class=front points=\"{}\"/>", points.join(" "));
    for one in measured {
        let (x, y, name) = (x(one), y(one), escape(&one.form.name()));
        let class = if chosen.is_some_and(|chosen| chosen.form == one.form) { " class=chosen" } else { "" };
        let _ = write!(svg, "<circle{class} cx={x:.1} cy={y:.1} r=5><title>{name}</title></circle>");
        if on_front(one, measured) {
            let _ = write!(svg, "<text x={:.1} y={:.1}>{name}</text>", x + 8.0, y - 6.0);
        }
    }
    svg + "</svg>"
}

fn table(measured: &[Measured], chosen: Option<&Measured>) -> String {
    let mut text =
        String::from("<table><tr><th>form</th><th>bytes</th><th>loss</th><th>bits a byte</th><th></th></tr>");
    for one in measured {
        let mark = match chosen.is_some_and(|chosen| chosen.form == one.form) {
            true => "chosen",
            false if on_front(one, measured) => "not beaten",
            false => "",
        };
        let _ = write!(
            text,
            "<tr><td>{}</td><td>{}</td><td>{:.4}</td><td>{:.4}</td><td>{mark}</td></tr>",
            escape(&one.form.name()),
            bytes(one.bytes),
            one.loss,
            one.bits_per_byte
        );
    }
    text + "</table>"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shrink::search::Form;

    #[test]
    fn a_page_shows_every_form_and_loads_nothing() {
        let form = |kind: &str| Form { with: Vec::new(), kind: kind.into() };
        let all = [("f32", 100, 1.0), ("q<8>", 30, 1.1), ("bad", 40, 1.3)]
            .map(|(kind, bytes, loss)| Measured { form: form(kind), bytes, loss, bits_per_byte: loss });
        let page = html("a & b", &all, Some(&all[1]), "because");
        assert_eq!((page.matches("<circle").count(), page.matches("class=chosen").count()), (3, 1));
        assert!(page.contains("q&lt;8&gt;") && page.contains("a &amp; b") && !page.contains("q<8>"));
        assert!(!page.contains("http") && page.matches("not beaten").count() == 1);
    }
}
