//! A page with the forms of a model: bytes against loss. It needs nothing but itself.

use std::fmt::Write;

use super::search::{Measured, on_front};
use crate::measure::sheet::{self, Labels, ticks};
use crate::measure::{bytes, write::escape};

const WIDE: f64 = 880.0;
const HIGH: f64 = 420.0;
const LEFT: f64 = 64.0;
const LOW: f64 = HIGH - 48.0;

/// The page: a plot, whose line joins the forms that no other one beats in both, and a table. `chosen`
/// is marked; `words` say why.
pub fn html(title: &str, measured: &[Measured], chosen: Option<&Measured>, words: &str) -> String {
    let mut sorted: Vec<&Measured> = measured.iter().collect();
    sorted.sort_by_key(|one| one.bytes);
    let all = Forms { measured, sorted, chosen };
    let legend = "<p class=legend><span>Down and to the left is better. The line joins the forms that no other one \
                  beats in both; grey ones are beaten.</span></p>";
    let body =
        format!("{}<p>{}</p>{}{legend}{}", sheet::heading(title), escape(words), all.plot(), all.table());
    sheet::page(title, "", &body)
}

struct Forms<'a> {
    measured: &'a [Measured],
    /// By bytes.
    sorted: Vec<&'a Measured>,
    chosen: Option<&'a Measured>,
}

impl Forms<'_> {
    fn is_chosen(&self, one: &Measured) -> bool {
        self.chosen.is_some_and(|chosen| chosen.form == one.form)
    }

    fn class(&self, one: &Measured) -> &'static str {
        match self.is_chosen(one) {
            true => " class=chosen",
            false if on_front(one, self.measured) => "",
            false => " class=beaten",
        }
    }

    fn plot(&self) -> String {
        let most = self.measured.iter().map(|one| one.bytes).max().unwrap_or(1) as f64 * 1.08;
        let losses = || self.measured.iter().map(|one| one.loss).filter(|loss| loss.is_finite());
        let (low, high) = (losses().fold(f64::INFINITY, f64::min), losses().fold(0.0, f64::max));
        let margin = (high - low).max(1e-6) * 0.08;
        let (low, high) = (low - margin, high + margin);
        let across = |bytes: f64| LEFT + bytes / most * (WIDE - LEFT - 16.0);
        let down = |loss: f64| 16.0 + (high - loss) / (high - low) * (LOW - 16.0);
        let place = |one: &Measured| (across(one.bytes as f64), down(one.loss).clamp(16.0, LOW));
        let mut svg =
            format!("<svg viewBox=\"0 0 {WIDE} {HIGH}\" role=img aria-label=\"bytes against loss\">");
        for loss in ticks(low, high, 5) {
            let (y, end) = (down(loss), LEFT - 8.0);
            let _ = write!(svg, "<path class=grid d=\"M{LEFT} {y:.1}H{WIDE}\"/>");
            let _ = write!(svg, "<text class=end x={end} y={:.1}>{loss:.3}</text>", y + 4.0);
        }
        for share in [0.25, 0.5, 0.75, 1.0] {
            let text = bytes((share * most) as u64);
            let _ =
                write!(svg, "<text class=end x={:.1} y={}>{text}</text>", across(share * most), LOW + 18.0);
        }
        let _ = write!(svg, "<path class=axis d=\"M{LEFT} 10V{LOW}H{WIDE}\"/>");
        let _ = write!(svg, "<text x={LEFT} y={}>bytes of the tensors →</text>", HIGH - 8.0);
        let _ = write!(svg, "<text x=0 y=8>loss, nats a token ↑</text>");
        let front = self.sorted.iter().filter(|one| on_front(one, self.measured));
        let points: Vec<String> =
            front.clone().map(|one| place(one)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(svg, "<polyline class=front points=\"{}\"/>", points.join(" "));
        for one in &self.sorted {
            let ((x, y), name) = (place(one), escape(&one.form.name()));
            let class = self.class(one);
            let r = if class == " class=beaten" { 4 } else { 6 };
            let _ = write!(svg, "<circle{class} cx={x:.1} cy={y:.1} r={r}><title>{name}</title></circle>");
        }
        let mut labels = Labels::among(self.sorted.iter().map(|one| place(one)));
        for one in front {
            let (x, y) = place(one);
            labels.put(x, y, &one.form.name(), WIDE);
        }
        svg + &labels.svg() + "</svg>"
    }

    fn table(&self) -> String {
        let head = "<tr><th>form</th><th>bytes</th><th>loss</th><th>bits a byte</th><th></th></tr>";
        let row = |one: &&Measured| {
            let mark = match self.class(one) {
                " class=chosen" => "chosen",
                "" => "not beaten",
                _ => "",
            };
            let (name, bytes) = (escape(&one.form.name()), bytes(one.bytes));
            format!(
                "<tr{}><td>{name}</td><td>{bytes}</td><td>{:.4}</td><td>{:.4}</td><td>{mark}</td></tr>",
                self.class(one),
                one.loss,
                one.bits_per_byte
            )
        };
        format!("<table>{head}{}</table>", self.sorted.iter().map(row).collect::<String>())
    }
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
        assert_eq!((page.matches("<circle").count(), page.matches("<circle class=chosen").count()), (3, 1));
        assert!(page.contains("q&lt;8&gt;") && page.contains("a &amp; b") && !page.contains("q<8>"));
        assert!(!page.contains("http") && page.matches("not beaten").count() == 1);
    }
}
