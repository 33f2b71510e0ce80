//! Things made from a seed: each class has its parts, and the seed their measures.

use std::f32::consts::{PI, TAU};
use std::fmt;
use std::ops::Range;

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{Part, Shape};
use crate::world::scene::random::{Purpose, stream};
use crate::world::scene::vector::{Vec3, vec3};
use crate::world::scene::words;

words! {
    /// What a shape is.
    Thing {
        /// A ball, squeezed into a blob by smaller ones.
        Blob = "blob",
        /// A box.
        Block = "block",
        /// A ring.
        Ring = "ring",
        /// A top on four legs.
        Table = "table",
        /// A seat on four legs with a back.
        Chair = "chair",
        /// A vessel with a handle.
        Mug = "mug",
        /// A rod with a ball on either end.
        Dumbbell = "dumbbell",
        /// Balls on each other.
        Snowman = "snowman",
        /// A foot, a pole and a shade.
        Lamp = "lamp",
        /// A drum with a round hole along its axis.
        Nut = "nut",
    }
}

/// A shape and what it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its class.
    pub thing: Thing,
    /// Its form, within a ball of radius 1 about the origin.
    pub shape: Shape,
}

impl Model {
    /// The shape of a number; each block of as many numbers as there are things has every thing once. Up to
    /// level 2 shapes stand straight.
    pub fn sample(seed: u64, index: u64, level: u8) -> Self {
        let count = Thing::ALL.len() as u64;
        let mut order: Vec<Thing> = Thing::ALL.to_vec();
        order.shuffle(&mut stream(seed ^ 0x51d, index / count, Purpose::Labels));
        let thing = order[(index % count) as usize];
        let mut maker = Maker { random: stream(seed, index, Purpose::Shape) };
        let mut shape = maker.make(thing);
        if level > 2 {
            shape.turn = maker.random.random_range(-PI..PI);
        }
        Self { thing, shape }
    }

    /// What it is, in words.
    pub fn caption(&self) -> String {
        crate::world::scene::caption::with_article(self.thing.name())
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.thing.name())
    }
}

struct Maker {
    random: ChaCha8Rng,
}

fn sharp(parts: Vec<Part>) -> Shape {
    Shape { parts, ..Shape::default() }
}

impl Maker {
    fn within(&mut self, range: Range<f32>) -> f32 {
        self.random.random_range(range)
    }

    fn make(&mut self, thing: Thing) -> Shape {
        match thing {
            Thing::Blob => self.blob(),
            Thing::Block => {
                let half = vec3(self.within(0.25..0.55), self.within(0.25..0.55), self.within(0.25..0.55));
                sharp(vec![Part::Block { centre: Vec3::default(), half }])
            }
            Thing::Ring => {
                let (radius, tube) = (self.within(0.5..0.65), self.within(0.14..0.26));
                sharp(vec![Part::Hoop { centre: Vec3::default(), radius, tube }])
            }
            Thing::Table => sharp(self.table(-0.55)),
            Thing::Chair => self.chair(),
            Thing::Mug => self.mug(),
            Thing::Dumbbell => self.dumbbell(),
            Thing::Snowman => self.snowman(),
            Thing::Lamp => self.lamp(),
            Thing::Nut => {
                let (radius, half) = (self.within(0.55..0.75), self.within(0.15..0.35));
                let hole = radius * self.within(0.35..0.6);
                let drum = |radius, half| Part::Drum { centre: Vec3::default(), radius, half };
                Shape { holes: vec![drum(hole, 1.0)], ..sharp(vec![drum(radius, half)]) }
            }
        }
    }

    fn blob(&mut self) -> Shape {
        let core = Part::Ball { centre: Vec3::default(), radius: self.within(0.4..0.5) };
        let bump = |maker: &mut Self| {
            let (turn, rise) = (maker.within(0.0..TAU), maker.within(-0.8..0.8));
            let flat = (1.0 - rise * rise).sqrt();
            let way = vec3(flat * turn.cos(), rise, flat * turn.sin());
            Part::Ball { centre: way * maker.within(0.3..0.45), radius: maker.within(0.2..0.32) }
        };
        let bumps: Vec<Part> = (0..4).map(|_| bump(self)).collect();
        Shape { blend: 0.25, ..sharp([vec![core], bumps].concat()) }
    }

    /// A top at height 0 to 0.3 on legs down to `foot`.
    fn table(&mut self, foot: f32) -> Vec<Part> {
        let (x, z, thick) = (self.within(0.4..0.6), self.within(0.35..0.5), self.within(0.05..0.09));
        let (height, radius) = (self.within(0.0..0.3), self.within(0.06..0.1));
        let top = Part::Block { centre: vec3(0.0, height, 0.0), half: vec3(x, thick, z) };
        let leg = |side: f32, end: f32| {
            let place = |y| vec3(side * (x - radius), y, end * (z - radius));
            Part::Rod { from: place(foot), to: place(height - thick / 2.0), radius }
        };
        vec![top, leg(-1.0, -1.0), leg(-1.0, 1.0), leg(1.0, -1.0), leg(1.0, 1.0)]
    }

    fn chair(&mut self) -> Shape {
        let mut parts = self.table(-0.5);
        if let Some(&Part::Block { centre, half }) = parts.first() {
            let seat = Part::Block { centre: vec3(0.0, -0.05, 0.0), half: vec3(0.38, half.y, 0.36) };
            let leg = |side: f32, end: f32| {
                let place = |y| vec3(side * 0.31, y, end * 0.29);
                Part::Rod { from: place(-0.55), to: place(-0.07), radius: 0.065 }
            };
            let high = 0.28 + centre.y / 2.5;
            let back =
                Part::Block { centre: vec3(0.0, high - 0.05, 0.36 - half.y), half: vec3(0.38, high, half.y) };
            parts = vec![seat, leg(-1.0, -1.0), leg(-1.0, 1.0), leg(1.0, -1.0), leg(1.0, 1.0), back];
        }
        sharp(parts)
    }

    fn mug(&mut self) -> Shape {
        let (radius, half, wall) =
            (self.within(0.36..0.46), self.within(0.38..0.52), self.within(0.08..0.11));
        let body = Part::Drum { centre: Vec3::default(), radius, half };
        let hollow = Part::Drum { centre: vec3(0.0, wall * 2.0, 0.0), radius: radius - wall, half };
        let (out, high) = (radius + self.within(0.22..0.3), half * 0.5);
        let corner = |x, y| vec3(x, y, 0.0);
        let rod = |from, to| Part::Rod { from, to, radius: wall * 0.75 };
        let handle = [
            rod(corner(radius - wall / 2.0, high), corner(out, high)),
            rod(corner(out, high), corner(out, -high)),
            rod(corner(out, -high), corner(radius - wall / 2.0, -high)),
        ];
        Shape { holes: vec![hollow], ..sharp([vec![body], handle.to_vec()].concat()) }
    }

    fn dumbbell(&mut self) -> Shape {
        let (reach, bar) = (self.within(0.45..0.6), self.within(0.09..0.15));
        let end = |x: f32, radius| Part::Ball { centre: vec3(x, 0.0, 0.0), radius };
        let rod = Part::Rod { from: vec3(-reach, 0.0, 0.0), to: vec3(reach, 0.0, 0.0), radius: bar };
        let ends = [end(-reach, self.within(0.24..0.36)), end(reach, self.within(0.24..0.36))];
        Shape { blend: 0.08, ..sharp([vec![rod], ends.to_vec()].concat()) }
    }

    fn snowman(&mut self) -> Shape {
        let (low, middle, top) = (self.within(0.36..0.42), self.within(0.26..0.32), self.within(0.17..0.22));
        let ball = |y, radius| Part::Ball { centre: vec3(0.0, y, 0.0), radius };
        let foot = -0.85 + low;
        let waist = foot + 0.8 * (low + middle);
        let head = waist + 0.85 * (middle + top);
        Shape { blend: 0.05, ..sharp(vec![ball(foot, low), ball(waist, middle), ball(head, top)]) }
    }

    fn lamp(&mut self) -> Shape {
        let (foot, shade) = (self.within(0.25..0.38), self.within(0.28..0.42));
        let (height, pole) = (self.within(0.18..0.28), self.within(0.05..0.08));
        let drum = |y, radius, half| Part::Drum { centre: vec3(0.0, y, 0.0), radius, half };
        sharp(vec![drum(-0.75, foot, 0.08), drum(0.0, pole, 0.7), drum(0.6, shade, height)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thing_comes_once_in_a_block_and_fits_the_unit_ball() {
        let mut seen: Vec<Thing> = Vec::new();
        for index in 0..Thing::ALL.len() as u64 {
            let model = Model::sample(9, index, 3);
            assert_eq!(model, Model::sample(9, index, 3));
            seen.push(model.thing);
            for at in 0..500 {
                let (turn, rise) = (at as f32 * 2.399, 1.0 - (at as f32 + 0.5) / 250.0);
                let flat = (1.0 - rise * rise).sqrt();
                let point = vec3(flat * turn.cos(), rise, flat * turn.sin());
                assert!(model.shape.distance(point) > 0.0, "{model} reaches out at {point:?}");
            }
        }
        seen.sort();
        assert_eq!(seen, Thing::ALL);
    }
}
