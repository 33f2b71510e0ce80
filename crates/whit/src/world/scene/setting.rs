//! What is around the objects: the camera, the light, the backdrop and marks that are no objects.

use std::f32::consts::{PI, TAU};

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

use super::level::Rules;
use super::view::Tilt;
use super::{Backdrop, Clutter, Texture, Vec3, vec3};

pub(super) fn tilt(most: f32, random: &mut impl Rng) -> Tilt {
    let mut turn = |most: f32| if most > 0.0 { random.random_range(-most..most) } else { 0.0 };
    Tilt { pitch: 0.62 + turn(most * 0.3), yaw: turn(most), roll: turn(most * 0.4) }
}

pub(super) fn light(rules: &Rules, random: &mut impl Rng) -> Vec3 {
    let spread = rules.jitter * 6.0;
    let mut turn = || if spread > 0.0 { random.random_range(-spread..spread) } else { 0.0 };
    vec3(-0.55 + turn(), 1.0, -0.45 + turn()).unit()
}

/// A colour near grey: what is behind never looks like an object.
fn pale(grey: f32, tint: f32, random: &mut impl Rng) -> [f32; 3] {
    [(); 3].map(|()| (grey + if tint > 0.0 { random.random_range(-tint..tint) } else { 0.0 }).clamp(0.0, 1.0))
}

pub(super) fn backdrop(rules: &Rules, flat: bool, random: &mut impl Rng) -> Backdrop {
    let tint = rules.jitter * 1.5;
    let grey = if rules.jitter > 0.0 && flat { random.random_range(0.15..0.95) } else { 0.88 };
    let grey = if flat { grey } else { random.random_range(0.6..0.85f32) };
    let other = if rules.objects == (1..=1) {
        grey
    } else {
        (grey + random.random_range(-0.2..0.2f32)).clamp(0.1, 0.97)
    };
    let patterned = rules.patterned && random.random_bool(0.6);
    let pattern = if patterned {
        *Texture::ALL[1..].choose(random).unwrap_or(&Texture::Striped)
    } else {
        Texture::Plain
    };
    let other = if patterned { grey + (other - grey) * 0.5 } else { other };
    Backdrop {
        near: pale(grey, tint, random),
        far: pale(other, tint, random),
        pattern,
        turn: random.random_range(0.0..TAU),
        scale: random.random_range(0.12..0.4),
    }
}

pub(super) fn clutter(flat: bool, random: &mut impl Rng) -> Clutter {
    let grey = random.random_range(0.05..0.95);
    if flat {
        let (sine, cosine) = random.random_range(0.0..PI).sin_cos();
        let half = random.random_range(0.02..0.09);
        let centre = vec3(random.random(), random.random(), 0.0);
        let radius = random.random_range(0.003..0.009);
        return Clutter { centre, radius, half: [half * cosine, half * sine], grey };
    }
    let radius = random.random_range(0.05..0.1);
    let mut along = || random.random_range(-3.2f32..3.2);
    Clutter { centre: vec3(along(), radius, along()), radius, half: [0.0; 2], grey }
}
