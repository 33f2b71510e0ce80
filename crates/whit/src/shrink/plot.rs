//! A page with the forms of a model: bytes against loss. It needs nothing but itself.

use std::fmt::Write;

use super::search::{Measured, on_front};
use crate::measure::sheet::{self, Labels, ticks};
use crate::measure::{bytes, write::escape};

const WIDE: f64 = 880.0;
const HIGH: f64 = 420.0;
const LEFT: f64 = 64.0;
const LOW: f64 = HIGH - 48.0;

/// The page: a plot, whose line joins the forms that no other one beats in both, and a table. `whole` is the
/// loss of the model as it is; `chosen` is marked; `words` say why.
pub fn html(
    title: &str,
    measured: &[Measured],
    whole: f64,
    chosen: Option<&Measured>,
    words: &str,
) -> String {
    let mut sorted: Vec<&Measured> = measured.iter().collect();
    sorted.sort_by_key(|one| one.bytes);
    let all = Forms { measured, sorted, whole, chosen };
    let legend = "<p class=legend><span>Down and to the left is better. The line joins the forms that no other one \
                  beats in both; grey ones are beaten.</span></p>";
    let (heading, words) = (sheet::heading(title), sheet::paragraph(words));
    let body = format!("{heading}{words}{}{legend}{}", all.plot(), all.table());
    sheet::page(title, "", &body)
}

/// How much more loss a form has than the whole model, in percent to two digits.
pub fn more(loss: f64, whole: f64) -> String {
    let percent = (1e4 * (loss / whole - 1.0)).round() / 100.0;
    // Adding zero takes the sign from a negative zero.
    format!("{:+.2} %", percent + 0.0)
}

struct Forms<'a> {
    measured: &'a [Measured],
    /// By bytes.
    sorted: Vec<&'a Measured>,
    whole: f64,
    chosen: Option<&'a Measured>,
}

/// Where things are: bytes by their logarithm, losses from `low` to `high`.
struct Scale {
    least: f64,
    most: f64,
    low: f64,
    high: f64,
}

impl Scale {
    fn of(measured: &[Measured]) -> Self {
        let sizes = || measured.iter().map(|one| one.bytes.max(1) as f64);
        let losses = || measured.iter().map(|one| one.loss).filter(|loss| loss.is_finite());
        let (low, high) = (losses().fold(f64::INFINITY, f64::min), losses().fold(0.0, f64::max));
        let margin = (high - low).max(1e-6) * 0.08;
        Self {
            least: sizes().fold(f64::INFINITY, f64::min) / 1.15,
            most: sizes().fold(1.0, f64::max) * 1.15,
            low: low - margin,
            high: high + margin,
        }
    }

    fn across(&self, bytes: f64) -> f64 {
        LEFT + (bytes.max(1.0) / self.least).ln() / (self.most / self.least).ln() * (WIDE - LEFT)
    }

    fn down(&self, loss: f64) -> f64 {
        16.0 + (self.high - loss) / (self.high - self.low) * (LOW - 16.0)
    }

    fn place(&self, one: &Measured) -> (f64, f64) {
        (self.across(one.bytes as f64), self.down(one.loss).clamp(16.0, LOW))
    }

    /// Powers of two and what is half way between them, as far as they are inside.
    fn sizes(&self) -> impl Iterator<Item = f64> {
        let (least, most) = (self.least, self.most);
        let all = (0..63).flat_map(|power| [1.0, 1.5].map(|part| part * f64::from(power).exp2()));
        all.filter(move |&bytes| bytes >= least && bytes <= most)
    }

    fn axes(&self, svg: &mut String) {
        for loss in ticks(self.low, self.high, 5) {
            let (y, end) = (self.down(loss), LEFT - 8.0);
            let _ = write!(svg, "<path class=grid d=\"M{LEFT} {y:.1}H{WIDE}\"/>");
            let _ = write!(svg, "<text class=end x={end} y={:.1}>{loss:.3}</text>", y + 4.0);
        }
        for size in self.sizes() {
            let (x, text) = (self.across(size), bytes(size as u64));
            let _ = write!(svg, "<text class=middle x={x:.1} y={}>{text}</text>", LOW + 18.0);
        }
        let _ = write!(svg, "<path class=axis d=\"M{LEFT} 10V{LOW}H{WIDE}\"/>");
        let _ =
            write!(svg, "<text x={LEFT} y={}>bytes of the tensors, by powers of two →</text>", HIGH - 8.0);
        let _ = write!(svg, "<text x=0 y=8>loss, nats a token ↑</text>");
    }
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
        let scale = Scale::of(self.measured);
        let mut svg =
            format!("<svg viewBox=\"0 0 {WIDE} {HIGH}\" role=img aria-label=\"bytes against loss\">");
        scale.axes(&mut svg);
        let front: Vec<&Measured> =
            self.sorted.iter().copied().filter(|one| on_front(one, self.measured)).collect();
        let line: Vec<(f64, f64)> = front.iter().map(|one| scale.place(one)).collect();
        let points: Vec<String> = line.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(svg, "<polyline class=front points=\"{}\"/>", points.join(" "));
        for one in &self.sorted {
            let ((x, y), name) = (scale.place(one), escape(&one.form.name()));
            let class = self.class(one);
            let r = if class == " class=beaten" { 4 } else { 6 };
            let _ = write!(svg, "<circle{class} cx={x:.1} cy={y:.1} r={r}><title>{name}</title></circle>");
        }
        let points = self.sorted.iter().map(|one| scale.place(one));
        let mut labels = Labels::among(points).beside_line(&line);
        for (one, (x, y)) in front.iter().zip(line) {
            labels.put(x, y, &one.form.name(), LEFT..WIDE);
        }
        svg + &labels.svg() + "</svg>"
    }

    fn table(&self) -> String {
        let head =
            "<tr><th>form</th><th>bytes</th><th>loss</th><th>more</th><th>bits a byte</th><th></th></tr>";
        let row = |one: &&Measured| {
            let mark = match self.class(one) {
                " class=chosen" => "chosen",
                "" => "not beaten",
                _ => "",
            };
            let (name, bytes) = (escape(&one.form.name()), bytes(one.bytes));
            format!(
                "<tr{}><td>{name}</td><td>{bytes}</td><td>{:.4}</td><td>{}</td><td>{:.4}</td><td>{mark}</td></tr>",
                self.class(one),
                one.loss,
                more(one.loss, self.whole),
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
        let page = html("a & b", &all, 1.0, Some(&all[1]), "because");
        assert_eq!((page.matches("<circle").count(), page.matches("<circle class=chosen").count()), (3, 1));
        assert!(page.contains("q&lt;8&gt;") && page.contains("a &amp; b") && !page.contains("q<8>"));
        assert!(page.contains("<td>+10.00 %</td>") && more(0.999_999, 1.0) == "+0.00 %");
        assert!(!page.contains("http") && page.matches("not beaten").count() == 1);
    }
}
