//! The loss curve as one self-contained page.

use std::fmt::Write;

use super::log::Record;
use crate::measure::sheet;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 420.0;
const MARGIN: f64 = 56.0;

/// A curve: its name, its class in the page's style, and its points (step, loss).
struct Curve {
    name: &'static str,
    class: &'static str,
    points: Vec<(f64, f64)>,
}

/// An HTML page with the training loss (a moving average) and the held-out loss over the steps.
pub fn page(title: &str, records: &[Record]) -> String {
    sheet::page(title, "", &(sheet::heading(title) + &drawing(&curves(records))))
}

fn curves(records: &[Record]) -> [Curve; 2] {
    let held_out = records.iter().filter_map(|r| Some((r.step as f64, f64::from(r.held_out?)))).collect();
    [
        Curve { name: "training loss", class: "first", points: smoothed(records) },
        Curve { name: "held-out loss", class: "second", points: held_out },
    ]
}

/// At most a few hundred points, each the mean of its neighbours.
fn smoothed(records: &[Record]) -> Vec<(f64, f64)> {
    let mean = |group: &[Record]| {
        let sum: f64 = group.iter().map(|record| f64::from(record.loss)).sum();
        (group[group.len() / 2].step as f64, sum / group.len() as f64)
    };
    records.chunks(records.len().div_ceil(300).max(1)).map(mean).collect()
}

fn drawing(curves: &[Curve]) -> String {
    let points = || curves.iter().flat_map(|curve| &curve.points).filter(|(_, loss)| loss.is_finite());
    let last = points().map(|point| point.0).fold(1.0, f64::max);
    let top = points().map(|point| point.1).fold(0.0, f64::max).ceil().max(1.0);
    let x = |step: f64| MARGIN + step / last * (WIDTH - 2.0 * MARGIN);
    let y = |loss: f64| HEIGHT - MARGIN - loss / top * (HEIGHT - 2.0 * MARGIN);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"loss over steps\">");
    for tick in 0..=4 {
        let (step, loss) = (last * f64::from(tick) / 4.0, top * f64::from(tick) / 4.0);
        let (left, right, low) = (MARGIN, WIDTH - MARGIN, HEIGHT - MARGIN + 18.0);
        let _ = write!(
            svg,
            "<line x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" class=grid />\
             <text x=\"{label}\" y=\"{y:.1}\" class=end>{loss:.2}</text>\
             <text x=\"{x:.1}\" y=\"{low}\" class=middle>{step:.0}</text>",
            y = y(loss),
            x = x(step),
            label = left - 6.0,
        );
    }
    for (row, curve) in curves.iter().enumerate() {
        let path: Vec<_> =
            curve.points.iter().map(|&(step, loss)| format!("{:.1},{:.1}", x(step), y(loss))).collect();
        let Curve { name, class, .. } = curve;
        let (left, low) = (WIDTH - MARGIN - 110.0, MARGIN + 18.0 * row as f64);
        let _ = write!(
            svg,
            "<polyline points=\"{}\" class={class} />\
             <text x=\"{left}\" y=\"{low}\" class={class}>{name}</text>",
            path.join(" ")
        );
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_curves_are_drawn_and_the_title_is_escaped() {
        let record = |step| Record {
            step,
            loss: 8.0 / step as f32,
            held_out: (step % 10 == 0).then_some(3.0),
            learning_rate: 0.1,
            gradient_norm: 1.0,
            items: step,
            seconds: 1.0,
        };
        let page = page("a < b", &(1..=1000).map(record).collect::<Vec<_>>());
        assert_eq!(page.matches("<polyline").count(), 2);
        assert!(page.contains("a &lt; b") && !page.contains("NaN"));
        assert!(!super::page("empty", &[]).contains("NaN"));
    }
}
