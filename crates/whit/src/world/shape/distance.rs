//! Signed distances of shapes that are put together from parts.

use crate::world::scene::vector::{Vec3, vec3};

/// A part: a simple solid at a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    /// A ball.
    Ball {
        /// Its centre.
        centre: Vec3,
        /// Its radius.
        radius: f32,
    },
    /// A box along the axes.
    Block {
        /// Its centre.
        centre: Vec3,
        /// Half its sides.
        half: Vec3,
    },
    /// All points near a line: a rod with round ends.
    Rod {
        /// One end.
        from: Vec3,
        /// The other end.
        to: Vec3,
        /// The radius.
        radius: f32,
    },
    /// An upright cylinder.
    Drum {
        /// Its centre.
        centre: Vec3,
        /// Its radius.
        radius: f32,
        /// Half its height.
        half: f32,
    },
    /// A ring of round cross-section about an upright axis.
    Hoop {
        /// Its centre.
        centre: Vec3,
        /// The radius of the ring.
        radius: f32,
        /// The radius of its tube.
        tube: f32,
    },
}

impl Part {
    /// The signed distance of a point; inside it is negative.
    pub fn distance(&self, point: Vec3) -> f32 {
        match *self {
            Self::Ball { centre, radius } => (point - centre).length() - radius,
            Self::Block { centre, half } => {
                let over = (point - centre).abs() - half;
                let outside = vec3(over.x.max(0.0), over.y.max(0.0), over.z.max(0.0));
                outside.length() + over.x.max(over.y).max(over.z).min(0.0)
            }
            Self::Rod { from, to, radius } => {
                let (way, gone) = (to - from, point - from);
                let part = (gone.dot(way) / way.dot(way).max(1e-12)).clamp(0.0, 1.0);
                (gone - way * part).length() - radius
            }
            Self::Drum { centre, radius, half } => {
                let away = point - centre;
                let (round, flat) = (away.x.hypot(away.z) - radius, away.y.abs() - half);
                round.max(0.0).hypot(flat.max(0.0)) + round.max(flat).min(0.0)
            }
            Self::Hoop { centre, radius, tube } => {
                let away = point - centre;
                (away.x.hypot(away.z) - radius).hypot(away.y) - tube
            }
        }
    }
}

/// Parts joined, with others cut away.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shape {
    /// What it is made of.
    pub parts: Vec<Part>,
    /// What is cut out of them.
    pub holes: Vec<Part>,
    /// How wide the parts blend into each other where they meet; 0 is sharp.
    pub blend: f32,
    /// How far it is turned about the upward axis, in radians.
    pub turn: f32,
}

impl Shape {
    /// Less than or equal to the distance of a point to the surface in size, and exact in sign: inside it is
    /// negative.
    pub fn distance(&self, point: Vec3) -> f32 {
        let (sine, cosine) = self.turn.sin_cos();
        let point = point.turned((-sine, cosine));
        let joined = self.parts.iter().fold(f32::INFINITY, |least, part| {
            let next = part.distance(point);
            if self.blend > 0.0 { smooth_least(least, next, self.blend) } else { least.min(next) }
        });
        self.holes.iter().fold(joined, |inside, hole| inside.max(-hole.distance(point)))
    }

    /// The direction in which the distance grows: the outward normal on the surface.
    pub fn normal(&self, point: Vec3) -> Vec3 {
        const STEP: f32 = 1e-3;
        let slope = |way: Vec3| self.distance(point + way * STEP) - self.distance(point - way * STEP);
        vec3(slope(vec3(1.0, 0.0, 0.0)), slope(vec3(0.0, 1.0, 0.0)), slope(vec3(0.0, 0.0, 1.0))).unit()
    }
}

/// The lesser of two, rounded by a parabola where they differ by less than `blend`.
fn smooth_least(a: f32, b: f32, blend: f32) -> f32 {
    let near = (1.0 - (a - b).abs() / blend).max(0.0);
    a.min(b) - near * near * blend / 4.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_of_parts_are_known() {
        let zero = Vec3::default();
        let at = |x, y, z| vec3(x, y, z);
        let near = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{a} is not {b}");
        near(Part::Ball { centre: zero, radius: 1.0 }.distance(at(3.0, 0.0, 0.0)), 2.0);
        let block = Part::Block { centre: zero, half: at(1.0, 2.0, 3.0) };
        near(block.distance(at(4.0, 6.0, 0.0)), 5.0);
        near(block.distance(at(0.5, 0.0, 0.0)), -0.5);
        near(Part::Rod { from: zero, to: at(0.0, 2.0, 0.0), radius: 0.5 }.distance(at(3.0, 6.0, 0.0)), 4.5);
        near(Part::Drum { centre: zero, radius: 1.0, half: 1.0 }.distance(at(4.0, 5.0, 0.0)), 5.0);
        near(Part::Hoop { centre: zero, radius: 2.0, tube: 0.5 }.distance(at(0.0, 0.0, 2.0)), -0.5);
    }

    #[test]
    fn holes_are_outside_and_turning_turns() {
        let zero = Vec3::default();
        let shape = Shape {
            parts: vec![Part::Block { centre: zero, half: vec3(1.0, 0.1, 0.1) }],
            holes: vec![Part::Ball { centre: zero, radius: 0.3 }],
            turn: std::f32::consts::FRAC_PI_2,
            ..Shape::default()
        };
        assert!(shape.distance(zero) > 0.0 && shape.distance(vec3(0.9, 0.0, 0.0)) > 0.0);
        assert!(shape.distance(vec3(0.0, 0.0, 0.9)) < 0.0);
        assert!((shape.normal(vec3(0.0, 0.1, 0.8)) - vec3(0.0, 1.0, 0.0)).length() < 1e-3);
    }
}
