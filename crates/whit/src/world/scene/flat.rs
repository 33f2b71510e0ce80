//! Flat scenes: outlines whose signed distance gives the part of each pixel that they cover.

use std::f32::consts::{PI, TAU};
use std::sync::LazyLock;

use super::image::Canvas;
use super::pattern::{coverage, distance, linear, mix, second_tone};
use super::{Backdrop, Clutter, Kind, Object, Scene};

/// The outline of a flat kind, with the area of a disc of radius 1.
#[derive(Debug)]
pub(super) struct Outline {
    /// The farthest point from the centre.
    pub reach: f32,
    /// Nothing within this distance of the centre is on the edge; negative where that says nothing.
    within: f32,
    edges: Vec<Edge>,
    /// The radius of a round hole, or 0.
    hole: f32,
}

/// From `start` along `way`, with the reciprocal of its squared length.
#[derive(Clone, Copy, Debug)]
struct Edge {
    start: [f32; 2],
    way: [f32; 2],
    inverse: f32,
}

static OUTLINES: LazyLock<Vec<Outline>> =
    LazyLock::new(|| Kind::FLAT.iter().map(|&kind| draw(kind)).collect());

/// The outline of a flat kind.
pub(super) fn outline(kind: Kind) -> &'static Outline {
    &OUTLINES[(kind as usize).min(Kind::FLAT.len() - 1)]
}

fn draw(kind: Kind) -> Outline {
    match kind {
        Kind::Square => polygon(&[[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]),
        Kind::Triangle => polygon(&round(3, |_| 1.0)),
        Kind::Star => polygon(&round(10, |corner| if corner % 2 == 0 { 1.0 } else { 0.42 })),
        Kind::Cross => polygon(&cross(0.36)),
        Kind::Heart => polygon(&heart(32)),
        Kind::Moon => polygon(&moon(14)),
        Kind::Ring => disc(0.55),
        _ => disc(0.0),
    }
}

/// A disc with a hole whose radius is a part of its own.
fn disc(hole: f32) -> Outline {
    let reach = 1.0 / (1.0 - hole * hole).sqrt();
    Outline { reach, within: -1.0, edges: Vec::new(), hole: hole * reach }
}

/// Corners at equal angles, the first at the top.
fn round(corners: usize, radius: impl Fn(usize) -> f32) -> Vec<[f32; 2]> {
    let corner = |at: usize| {
        let (sine, cosine) = (TAU * at as f32 / corners as f32).sin_cos();
        [radius(at) * sine, -radius(at) * cosine]
    };
    (0..corners).map(corner).collect()
}

/// Two bars of half width `arm`.
fn cross(arm: f32) -> Vec<[f32; 2]> {
    let quarter = [[-arm, -1.0], [arm, -1.0], [arm, -arm]];
    let turned = |[x, y]: [f32; 2], quarters: usize| match quarters {
        0 => [x, y],
        1 => [-y, x],
        2 => [-x, -y],
        _ => [y, -x],
    };
    (0..4).flat_map(|quarters| quarter.map(|point| turned(point, quarters))).collect()
}

/// The heart curve: x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t.
fn heart(points: usize) -> Vec<[f32; 2]> {
    let point = |at: usize| {
        let t = TAU * at as f32 / points as f32;
        let up = 13.0 * t.cos() - 5.0 * (2.0 * t).cos() - 2.0 * (3.0 * t).cos() - (4.0 * t).cos();
        [16.0 * t.sin().powi(3), -up]
    };
    (0..points).map(point).collect()
}

/// Two arcs that meet in points: the outer of radius 1, the inner of radius 0.86 about a centre to the right.
fn moon(points: usize) -> Vec<[f32; 2]> {
    const INNER: f32 = 0.86;
    const CENTRE: f32 = 0.5;
    // Where the circles meet.
    let x = (1.0 - INNER * INNER + CENTRE * CENTRE) / (2.0 * CENTRE);
    let (outer, inner) = (x.acos(), ((x - CENTRE) / INNER).acos());
    let part = |at: usize| at as f32 / points as f32;
    let arc = |angle: f32, radius: f32, centre: f32| [centre + radius * angle.cos(), radius * angle.sin()];
    let left = (0..points).map(|at| arc(outer + part(at) * (TAU - 2.0 * outer), 1.0, 0.0));
    let right = (0..points).map(|at| arc(TAU - inner - part(at) * (TAU - 2.0 * inner), INNER, CENTRE));
    left.chain(right).collect()
}

/// The polygon, moved to its centroid and scaled to the area of a disc of radius 1.
fn polygon(corners: &[[f32; 2]]) -> Outline {
    let next = |at: usize| corners[(at + 1) % corners.len()];
    let (mut area, mut middle) = (0.0, [0.0, 0.0]);
    for (at, &[x, y]) in corners.iter().enumerate() {
        let [next_x, next_y] = next(at);
        let twice = x * next_y - next_x * y;
        area += twice / 2.0;
        middle = [middle[0] + twice * (x + next_x) / 6.0, middle[1] + twice * (y + next_y) / 6.0];
    }
    let scale = (PI / area.abs()).sqrt();
    let placed = |[x, y]: [f32; 2]| [(x - middle[0] / area) * scale, (y - middle[1] / area) * scale];
    let edge = |at: usize| {
        let (start, end) = (placed(corners[at]), placed(next(at)));
        let way = [end[0] - start[0], end[1] - start[1]];
        Edge { start, way, inverse: 1.0 / (way[0] * way[0] + way[1] * way[1]) }
    };
    let edges: Vec<Edge> = (0..corners.len()).map(edge).collect();
    let reach = edges.iter().map(|edge| edge.start[0].hypot(edge.start[1])).fold(0.0, f32::max);
    let mut outline = Outline { reach, within: -1.0, edges, hole: 0.0 };
    outline.within = -outline.distance(0.0, 0.0);
    outline
}

impl Outline {
    /// The signed distance to the outline; inside it is negative.
    pub(super) fn distance(&self, x: f32, y: f32) -> f32 {
        if self.edges.is_empty() {
            let away = (x * x + y * y).sqrt();
            return (away - self.reach).max(if self.hole > 0.0 { self.hole - away } else { f32::MIN });
        }
        let (mut least, mut inside) = (f32::INFINITY, false);
        for edge in &self.edges {
            let (dx, dy) = (x - edge.start[0], y - edge.start[1]);
            let along = ((dx * edge.way[0] + dy * edge.way[1]) * edge.inverse).clamp(0.0, 1.0);
            let (ox, oy) = (dx - along * edge.way[0], dy - along * edge.way[1]);
            least = least.min(ox * ox + oy * oy);
            // A ray to the right crosses the edge if its ends are on either side and it passes to the right.
            let crosses = (dy < 0.0) != (dy < edge.way[1]);
            let side = dx * edge.way[1] - dy * edge.way[0];
            inside ^= crosses && ((side < 0.0) == (edge.way[1] > 0.0));
        }
        if inside { -least.sqrt() } else { least.sqrt() }
    }

    /// As [`Self::distance`], where at most `margin` matters: farther away the sign is enough.
    fn near(&self, x: f32, y: f32, margin: f32) -> f32 {
        let square = x * x + y * y;
        if square > (self.reach + margin) * (self.reach + margin) {
            return f32::INFINITY;
        }
        let calm = self.within - margin;
        if calm > 0.0 && square < calm * calm { f32::NEG_INFINITY } else { self.distance(x, y) }
    }
}

/// Paints a flat scene.
pub(super) fn paint(scene: &Scene, canvas: &mut Canvas) {
    backdrop(&scene.backdrop, canvas);
    scene.clutter.iter().for_each(|clutter| streak(clutter, canvas));
    let mut order: Vec<usize> = (0..scene.objects.len()).collect();
    order.sort_by(|&a, &b| scene.objects[b].centre.z.total_cmp(&scene.objects[a].centre.z));
    order.into_iter().for_each(|at| object(&scene.objects[at], at as u8 + 1, canvas));
}

/// The colour of the backdrop at a place, in linear light; `pixels` is the number of them on a side.
pub(super) fn behind(backdrop: &Backdrop, axis: (f32, f32), [x, y]: [f32; 2], pixels: f32) -> [f32; 3] {
    let (sine, cosine) = axis;
    let (u, v) = (cosine * x + sine * y, cosine * y - sine * x);
    let part = if backdrop.pattern == super::Texture::Plain {
        (0.5 + 0.7 * v).clamp(0.0, 1.0)
    } else {
        let scale = backdrop.scale;
        coverage(distance(backdrop.pattern, u / scale, v / scale) * scale * pixels)
    };
    linear(mix(backdrop.near, backdrop.far, part))
}

fn backdrop(backdrop: &Backdrop, canvas: &mut Canvas) {
    let side = canvas.size;
    let axis = backdrop.turn.sin_cos();
    let place = |at: usize| (at as f32 + 0.5) / side as f32 - 0.5;
    for (at, colour) in canvas.colour.iter_mut().enumerate() {
        *colour = behind(backdrop, axis, [place(at % side), place(at / side)], side as f32);
    }
}

/// A grey line with round ends.
fn streak(clutter: &Clutter, canvas: &mut Canvas) {
    let pixels = canvas.size as f32;
    let [hx, hy] = clutter.half;
    let reach = hx.hypot(hy) + clutter.radius;
    let colour = linear([clutter.grey; 3]);
    canvas.around(clutter.centre.x, clutter.centre.y, reach, |canvas, at, x, y| {
        let along = ((x * hx + y * hy) / (hx * hx + hy * hy).max(1e-9)).clamp(-1.0, 1.0);
        let away = (x - along * hx).hypot(y - along * hy) - clutter.radius;
        canvas.colour[at] = mix(canvas.colour[at], colour, coverage(away * pixels));
    });
}

fn object(object: &Object, owner: u8, canvas: &mut Canvas) {
    let outline = outline(object.kind);
    let (pixels, (sine, cosine)) = (canvas.size as f32, object.turn.sin_cos());
    let (inverse, scale) = (1.0 / object.radius, object.radius * pixels);
    let (first, second) = (linear(object.paint), linear(second_tone(object.paint)));
    let reach = object.radius * outline.reach;
    canvas.around(object.centre.x, object.centre.y, reach, |canvas, at, x, y| {
        let (u, v) = ((cosine * x + sine * y) * inverse, (cosine * y - sine * x) * inverse);
        let covered = coverage(outline.near(u, v, 0.5 / scale) * scale);
        if covered > 0.0 {
            let tone = coverage(distance(object.texture, u, v) * scale);
            canvas.colour[at] = mix(canvas.colour[at], mix(first, second, tone), covered);
        }
        if covered >= 0.5 {
            canvas.owner[at] = owner;
            canvas.depth[at] = object.centre.z;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outline_has_the_area_of_the_unit_disc_and_stays_in_its_reach() {
        for &kind in Kind::FLAT {
            let outline = outline(kind);
            let step = 0.02;
            let (mut inside, mut farthest) = (0, 0.0f32);
            for at in 0..200 * 200 {
                let (x, y) = ((at % 200) as f32 * step - 1.99, (at / 200) as f32 * step - 1.99);
                if outline.distance(x, y) < 0.0 {
                    inside += 1;
                    farthest = farthest.max(x.hypot(y));
                }
            }
            let area = inside as f32 * step * step;
            assert!((area / PI - 1.0).abs() < 0.02, "{kind} has the area {area}");
            assert!(farthest <= outline.reach && farthest > outline.reach - 0.25, "{kind} {farthest}");
        }
    }

    #[test]
    fn the_distance_to_a_square_is_known() {
        let half = PI.sqrt() / 2.0;
        let square = outline(Kind::Square);
        assert!((square.distance(0.0, 0.0) + half).abs() < 1e-5);
        assert!((square.distance(half + 0.3, 0.1) - 0.3).abs() < 1e-5);
        assert!((square.distance(half + 0.3, half + 0.4) - 0.5).abs() < 1e-5);
    }

    #[test]
    fn the_quick_distance_has_the_same_coverage() {
        for &kind in Kind::FLAT {
            let outline = outline(kind);
            for at in 0..60 * 60 {
                let (x, y) = ((at % 60) as f32 * 0.06 - 1.8, (at / 60) as f32 * 0.06 - 1.8);
                let (exact, quick) = (outline.distance(x, y), outline.near(x, y, 0.05));
                assert_eq!(coverage(exact * 10.0), coverage(quick * 10.0), "{kind} at {x} {y}");
            }
        }
    }
}
