//! A plot of what is gained against what it costs: up and to the left is better.

use std::fmt::Write;

use super::sheet::{Labels, ticks};
use super::write::escape;

const WIDE: f64 = 880.0;
const HIGH: f64 = 400.0;
const LEFT: f64 = 56.0;
const LOW: f64 = HIGH - 48.0;

/// A point of the plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Its name.
    pub name: String,
    /// Points of one family are joined by a thin line.
    pub family: String,
    /// What it costs.
    pub cost: f64,
    /// What it gains, from 0 to 1.
    pub gain: f64,
}

impl Point {
    /// Whether another point costs less and gains more, or is as good in one and better in the other.
    pub fn is_beaten(&self, by: &[Self]) -> bool {
        by.iter().any(|other| {
            let better = other.cost < self.cost || other.gain > self.gain;
            better && other.cost <= self.cost && other.gain >= self.gain
        })
    }
}

/// The plot as SVG, its axes named; a line joins the points that no other one beats.
pub fn plot(points: &[Point], [cost, gain]: [&str; 2]) -> String {
    let scale = Scale::of(points);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDE} {HIGH}\" role=img aria-label=\"{}\">", escape(gain));
    scale.axes(&mut svg, [cost, gain]);
    for family in families(points) {
        let line = scale.line(points.iter().filter(|point| point.family == family));
        let _ = write!(svg, "<polyline class=family points=\"{line}\"/>");
    }
    let front: Vec<&Point> = points.iter().filter(|point| !point.is_beaten(points)).collect();
    let _ = write!(svg, "<polyline class=front points=\"{}\"/>", scale.line(front.iter().copied()));
    for point in points {
        let (x, y) = scale.place(point);
        let class = if point.is_beaten(points) { " class=beaten" } else { "" };
        let title = format!("{}: {:.2} %, {:.3}", point.name, 100.0 * point.gain, point.cost);
        let title = escape(&title);
        let _ = write!(svg, "<circle{class} cx={x:.1} cy={y:.1} r=5><title>{title}</title></circle>");
    }
    let mut labels = Labels::among(points.iter().map(|point| scale.place(point)));
    for point in named(points) {
        let (x, y) = scale.place(point);
        labels.put(x, y, &point.name, LEFT..WIDE);
    }
    svg + &labels.svg() + "</svg>"
}

/// All points where there are few; else those of the front, and the cheapest of each family.
fn named(points: &[Point]) -> Vec<&Point> {
    let cheapest =
        |point: &Point| points.iter().all(|other| other.family != point.family || other.cost >= point.cost);
    let shown = |point: &&Point| points.len() <= 12 || !point.is_beaten(points) || cheapest(point);
    points.iter().filter(shown).collect()
}

fn families(points: &[Point]) -> Vec<&str> {
    let mut families: Vec<&str> = points.iter().map(|point| point.family.as_str()).collect();
    families.sort_unstable();
    families.dedup();
    families
}

struct Scale {
    /// The largest cost, with a margin.
    most: f64,
    /// The least and largest gain, with a margin.
    gains: [f64; 2],
}

impl Scale {
    fn of(points: &[Point]) -> Self {
        let gains = || points.iter().map(|point| point.gain);
        let (low, high) = (gains().fold(f64::INFINITY, f64::min), gains().fold(0.0, f64::max));
        let margin = ((high - low) * 0.1).max(0.005);
        let most = points.iter().map(|point| point.cost).fold(f64::MIN_POSITIVE, f64::max);
        Self { most: 1.1 * most, gains: [low.min(high) - margin, high + margin] }
    }

    fn across(&self, cost: f64) -> f64 {
        LEFT + cost / self.most * (WIDE - LEFT - 8.0)
    }

    fn down(&self, gain: f64) -> f64 {
        let [low, high] = self.gains;
        20.0 + (high - gain) / (high - low) * (LOW - 20.0)
    }

    fn place(&self, point: &Point) -> (f64, f64) {
        (self.across(point.cost), self.down(point.gain))
    }

    fn line<'a>(&self, points: impl Iterator<Item = &'a Point>) -> String {
        let mut places: Vec<(f64, f64)> = points.map(|point| self.place(point)).collect();
        places.sort_by(|a, b| a.0.total_cmp(&b.0));
        places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
    }

    fn axes(&self, svg: &mut String, [cost, gain]: [&str; 2]) {
        let [low, high] = self.gains;
        for gain in ticks(low, high, 5) {
            let (y, end) = (self.down(gain), LEFT - 8.0);
            let _ = write!(svg, "<path class=grid d=\"M{LEFT} {y:.1}H{WIDE}\"/>");
            let _ = write!(svg, "<text class=end x={end} y={:.1}>{:.1} %</text>", y + 4.0, 100.0 * gain);
        }
        for at in ticks(0.0, self.most, 6) {
            let (x, y) = (self.across(at), LOW + 18.0);
            let _ = write!(svg, "<text class=middle x={x:.1} y={y}>{}</text>", short(at));
        }
        let _ = write!(svg, "<path class=axis d=\"M{LEFT} 14V{LOW}H{WIDE}\"/>");
        let _ = write!(svg, "<text x={LEFT} y={}>{} →</text>", HIGH - 8.0, escape(cost));
        let _ = write!(svg, "<text x=0 y=8>{} ↑</text>", escape(gain));
    }
}

/// A number without zeros that say nothing.
fn short(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(family: &str, cost: f64, gain: f64) -> Point {
        Point { name: format!("{family} <{cost}>"), family: family.into(), cost, gain }
    }

    #[test]
    fn the_front_is_what_no_other_point_beats() {
        let points = [point("a", 1.0, 0.5), point("a", 2.0, 0.7), point("b", 2.0, 0.6), point("b", 3.0, 0.7)];
        assert_eq!(points.each_ref().map(|one| one.is_beaten(&points)), [false, false, true, true]);
        let twins = [point("a", 1.0, 0.5), point("b", 1.0, 0.5)];
        assert!(twins.iter().all(|one| !one.is_beaten(&twins)));
    }

    #[test]
    fn every_point_is_drawn_inside_and_its_name_stays_words() {
        let points: Vec<Point> =
            (0..20).map(|at| point("x", f64::from(at), f64::from(at % 7) / 9.0)).collect();
        let svg = plot(&points, ["cost", "gain"]);
        assert_eq!((svg.matches("<circle").count(), svg.matches("class=family").count()), (20, 1));
        assert!(!svg.contains("<0>") && !svg.contains("NaN"));
        let scale = Scale::of(&points);
        assert!(
            points.iter().map(|one| scale.place(one)).all(|(x, y)| x <= WIDE && (0.0..=LOW).contains(&y))
        );
        assert!(!plot(&points[..1], ["cost", "gain"]).contains("NaN"));
    }
}
