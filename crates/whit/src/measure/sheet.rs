//! The frame of every page that Whit writes: one file that needs nothing but itself, in light or in dark.

use std::fmt::Write;
use std::ops::Range;

use super::write::escape;
use crate::methods::Plan;

/// The look that all pages share.
const STYLE: &str = include_str!("sheet.css");

/// A page: its title, a style of its own behind the shared one, and what it holds.
pub fn page(title: &str, style: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <meta name=color-scheme content=\"light dark\"><title>{}</title><style>{STYLE}{style}</style>\
         <main>{body}</main></html>\n",
        escape(title)
    )
}

/// A heading over the whole page.
pub fn heading(title: &str) -> String {
    format!("<h1>{}</h1>", escape(title))
}

/// A paragraph, in which what stands between backticks is code.
pub fn paragraph(words: &str) -> String {
    let piece = |(at, text): (usize, &str)| match at % 2 {
        0 => escape(text),
        _ => format!("<code>{}</code>", escape(text)),
    };
    format!("<p>{}</p>", words.split('`').enumerate().map(piece).collect::<String>())
}

/// A row of figures, each a name and a value.
pub fn figures<'a>(figures: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let figure = |(name, value): (&str, String)| {
        format!("<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(&value))
    };
    format!("<dl>{}</dl>", figures.into_iter().map(figure).collect::<String>())
}

/// What the methods of a plan are, a card each.
pub fn methods(plan: &Plan) -> String {
    if plan.is_plain() {
        return "<p class=methods>No method was on.</p>".into();
    }
    let mut text = String::from("<div class=methods>");
    for part in plan.parts() {
        let (spec, knobs) = (part.spec(), escape(&part.knobs.to_string()));
        let (title, summary) = (escape(spec.title), escape(spec.summary));
        let _ = write!(text, "<div><b>{title}</b><code>{} {knobs}</code><p>{summary}</p></div>", spec.id);
    }
    text + "</div>"
}

/// The names of the points of a plot, none over another or over a point.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// Left, top, right and bottom of what is taken.
    taken: Vec<[f64; 4]>,
    text: String,
}

impl Labels {
    /// Labels among `points`.
    pub fn among(points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let around = |(x, y): (f64, f64)| [x - 5.0, y - 5.0, x + 5.0, y + 5.0];
        Self { taken: points.into_iter().map(around).collect(), text: String::new() }
    }

    /// Nor over the line through `points`.
    pub fn beside_line(mut self, points: &[(f64, f64)]) -> Self {
        for pair in points.windows(2) {
            let [(x, y), (to_x, to_y)] = [pair[0], pair[1]];
            let steps = ((to_x - x).hypot(to_y - y) / 6.0).ceil().max(1.0);
            let at = |step: f64| (x + (to_x - x) * step / steps, y + (to_y - y) * step / steps);
            let dots = (0..=steps as usize).map(|step| at(step as f64));
            self.taken.extend(dots.map(|(x, y)| [x - 1.0, y - 1.0, x + 1.0, y + 1.0]));
        }
        self
    }

    /// Puts a name beside the point at `x`, `y`, where there is room `within` left and right.
    pub fn put(&mut self, x: f64, y: f64, name: &str, within: Range<f64>) {
        let wide = 6.6 * name.chars().count() as f64;
        let fits = |side: &f64| x + side >= within.start && x + side + wide <= within.end;
        let sides = [8.0, -8.0 - wide].into_iter().filter(fits);
        let places = [-6.0, 15.0, -20.0, 29.0, -34.0, 43.0, -48.0, 57.0].map(|down| y + down);
        let all = places.iter().flat_map(|&down| sides.clone().map(move |side| (x + side, down)));
        let mut free = all.filter(|&(left, base)| self.is_free([left, base - 10.0, left + wide, base + 2.0]));
        let (left, base) = free.next().unwrap_or((x + 8.0, y - 6.0));
        self.taken.push([left, base - 10.0, left + wide, base + 2.0]);
        self.text += &format!("<text class=name x={left:.1} y={base:.1}>{}</text>", escape(name));
    }

    /// All of them, as SVG.
    pub fn svg(self) -> String {
        self.text
    }

    fn is_free(&self, place: [f64; 4]) -> bool {
        let apart =
            |one: &[f64; 4]| place[2] < one[0] || one[2] < place[0] || place[3] < one[1] || one[3] < place[1];
        self.taken.iter().all(apart)
    }
}

/// Round numbers from `low` to `high`, about `count` of them.
pub fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count.max(1) as f64;
    if rough.is_nan() || rough <= 0.0 {
        return vec![low];
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let first = (low / step).ceil() as i64;
    (first..).map(|index| index as f64 * step).take_while(|value| *value <= high).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 27.0, 4), [0.0, 10.0, 20.0]);
        assert_eq!(ticks(1.3, 1.9, 3), [1.4, 1.6, 1.8].map(|at: f64| (at / 0.2).round() * 0.2));
        assert_eq!(ticks(2.0, 2.0, 3), [2.0]);
    }

    #[test]
    fn names_of_neighbours_keep_apart() {
        let points = [(10.0, 50.0), (12.0, 52.0), (14.0, 54.0), (16.0, 50.0)];
        let mut labels = Labels::among(points);
        points.iter().for_each(|&(x, y)| labels.put(x, y, "a long name", 0.0..400.0));
        let boxes = &labels.taken;
        for (index, one) in boxes.iter().enumerate().skip(points.len()) {
            let others = Labels { taken: boxes[..index].to_vec(), text: String::new() };
            assert!(others.is_free(*one), "{one:?}");
        }
    }

    #[test]
    fn names_stay_inside_and_off_the_line() {
        let line = [(100.0, 10.0), (100.0, 90.0)];
        let mut labels = Labels::among([]).beside_line(&line);
        let dots = labels.taken.len();
        labels.put(100.0, 50.0, "a name wider than what is left", 90.0..400.0);
        labels.put(390.0, 50.0, "another", 90.0..400.0);
        let [one, other] = [labels.taken[dots], labels.taken[dots + 1]];
        assert!(one[0] > 101.0 && other[2] < 390.0, "{one:?} {other:?}");
    }

    #[test]
    fn words_between_backticks_are_code() {
        assert_eq!(paragraph("run `a < b` now"), "<p>run <code>a &lt; b</code> now</p>");
    }

    #[test]
    fn a_page_is_one_file_and_its_words_stay_words() {
        let body = heading("a < b") + &figures([("x & y", "<3".to_owned())]);
        let page = page("a < b", ".own{color:red}", &body);
        assert!(page.contains("<title>a &lt; b</title>") && page.contains("<h1>a &lt; b</h1>"));
        assert!(page.contains("x &amp; y") && page.contains("&lt;3") && page.contains(".own{color:red}"));
        assert!(
            page.contains("prefers-color-scheme:dark") && !page.contains("http") && !page.contains("url(")
        );
    }
}
