//! The camera: a pinhole above the ground.

use super::{Spot, Vec3, vec3};

/// A pinhole camera. A ray through the picture is `forward + x * right + y * up`, so its parameter is the
/// depth along the axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    /// Where the pinhole is.
    pub eye: Vec3,
    /// The direction it looks in.
    pub forward: Vec3,
    /// To the right in the picture.
    pub right: Vec3,
    /// Upwards in the picture.
    pub up: Vec3,
    /// Half the width of the picture at depth 1.
    pub half: f32,
}

/// How far the camera is from what it looks at.
const DISTANCE: f32 = 9.0;
/// What the camera looks at.
const TARGET: Vec3 = vec3(0.0, 0.25, 0.0);

/// How a camera is turned, in radians.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Tilt {
    /// How far it looks down.
    pub pitch: f32,
    /// How far it went round the scene.
    pub yaw: f32,
    /// How far it leans to a side.
    pub roll: f32,
}

impl View {
    /// Half the width of the picture at depth 1, for all views.
    pub(super) const HALF: f32 = 0.28;

    pub(super) fn new(tilt: Tilt) -> Self {
        let (sine, cosine) = tilt.pitch.sin_cos();
        let forward = vec3(0.0, -sine, cosine).turned(tilt.yaw.sin_cos());
        let level = vec3(0.0, 1.0, 0.0).cross(forward).unit();
        let upright = forward.cross(level);
        let (sine, cosine) = tilt.roll.sin_cos();
        Self {
            eye: TARGET - forward * DISTANCE,
            forward,
            right: level * cosine + upright * sine,
            up: upright * cosine - level * sine,
            half: Self::HALF,
        }
    }

    /// The direction through the place `x`, `y` of the picture, 0 to 1 rightwards and downwards; its part
    /// along the axis is 1.
    pub fn ray(&self, x: f32, y: f32) -> Vec3 {
        let (x, y) = ((2.0 * x - 1.0) * self.half, (1.0 - 2.0 * y) * self.half);
        self.forward + self.right * x + self.up * y
    }

    /// The distance of a point along the camera's axis.
    pub fn depth(&self, point: Vec3) -> f32 {
        (point - self.eye).dot(self.forward)
    }

    /// A point in the camera's own axes: right, up, forward.
    pub(super) fn inward(&self, point: Vec3) -> Vec3 {
        let way = point - self.eye;
        vec3(way.dot(self.right), way.dot(self.up), way.dot(self.forward))
    }

    /// Where a ball appears.
    pub fn spot(&self, centre: Vec3, radius: f32) -> Spot {
        let seen = self.inward(centre);
        let scale = 0.5 / (self.half * seen.z);
        // A ball at the angle a off the axis that fills the angle b either way ends at tan(a + b) at the farthest.
        let away = seen.length();
        let (off, fills) = (seen.z / away, radius / away);
        let farthest =
            off * (1.0 - fills * fills).max(0.0).sqrt() - (1.0 - off * off).max(0.0).sqrt() * fills;
        let wider = 1.0 / farthest.max(1e-3);
        Spot { x: 0.5 + seen.x * scale, y: 0.5 - seen.y * scale, reach: radius * scale * wider }
    }
}
