//! Short videos: every object of a scene moves by a rule with a name, so captions tell the motion exactly.

use std::f32::consts::{PI, TAU};
use std::fmt;

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::caption::{brief, join};
use super::compose::in_frame;
use super::random::{Purpose, stream};
use super::solid::form;
use super::{Object, Rendered, Scene, Vec3, World, vec3, words};

words! {
    /// What an object does.
    Motion {
        /// Nothing.
        Still = "stays still",
        /// Its centre goes left.
        Left = "moves to the left",
        /// Its centre goes right.
        Right = "moves to the right",
        /// Flat: its centre rises. Solid: it goes away.
        Away = "moves away",
        /// Flat: its centre sinks. Solid: it comes nearer.
        Nearer = "comes nearer",
        /// Flat: it goes up.
        Up = "moves up",
        /// Flat: it goes down.
        Down = "moves down",
        /// It turns about itself.
        Spin = "spins",
        /// It becomes larger.
        Grow = "grows",
        /// It becomes smaller.
        Shrink = "shrinks",
        /// Solid: it jumps twice.
        Bounce = "bounces",
    }
}

/// A scene whose objects move.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// The scene at the start.
    pub scene: Scene,
    /// What each object does.
    pub motions: Vec<Motion>,
    /// How many pictures there are.
    pub frames: usize,
}

impl World {
    /// The clip of a number: the scene of that number, in motion.
    pub fn clip(&self, index: u64, frames: usize) -> Clip {
        let scene = self.sample(index);
        let mut random = stream(self.seed, index, Purpose::Clip);
        let mut clip = Clip { motions: vec![Motion::Still; scene.objects.len()], scene, frames };
        for at in 0..clip.scene.objects.len() {
            clip.choose(at, &mut random);
        }
        clip
    }
}

impl Clip {
    /// Gives an object a motion that keeps it in the picture and clear of the others; the first object of a
    /// scene moves if anything lets it.
    fn choose(&mut self, at: usize, random: &mut ChaCha8Rng) {
        if at > 0 && random.random_bool(0.25) {
            return;
        }
        let carries = self.scene.objects.iter().any(|object| object.on == Some(at));
        if carries || self.scene.objects[at].on.is_some() {
            return;
        }
        let kinds: &[Motion] = if self.scene.is_flat() { FLAT } else { SOLID };
        for _ in 0..12 {
            self.motions[at] = kinds.choose(random).copied().unwrap_or(Motion::Still);
            if self.allowed(at) {
                return;
            }
        }
        self.motions[at] = Motion::Still;
    }

    fn allowed(&self, at: usize) -> bool {
        let turns = !matches!(
            self.scene.objects[at].kind,
            super::Kind::Circle
                | super::Kind::Ring
                | super::Kind::Sphere
                | super::Kind::Torus
                | super::Kind::Cone
                | super::Kind::Cylinder
        );
        if self.motions[at] == Motion::Spin && !turns {
            return false;
        }
        [0.25, 0.5, 0.75, 1.0].iter().all(|&time| {
            let scene = self.at(time);
            let object = &scene.objects[at];
            let clear = |(other, there): (usize, &Object)| other == at || apart(&scene, object, there);
            in_frame(&scene, object) && scene.objects.iter().enumerate().all(clear)
        })
    }

    /// The scene at a time from 0, the start, to 1, the end.
    pub fn at(&self, time: f32) -> Scene {
        let mut scene = self.scene.clone();
        let flat = scene.is_flat();
        let (right, forward) = (level(self.scene.view.right), level(self.scene.view.forward));
        for (object, &motion) in scene.objects.iter_mut().zip(&self.motions) {
            let way = |flat_way: Vec3, solid_way: Vec3| {
                if flat { flat_way * (0.35 * time) } else { solid_way * (1.8 * time) }
            };
            let zero = Vec3::default();
            let moved = match motion {
                Motion::Left => way(vec3(-1.0, 0.0, 0.0), -right),
                Motion::Right => way(vec3(1.0, 0.0, 0.0), right),
                Motion::Up => way(vec3(0.0, -1.0, 0.0), zero),
                Motion::Down => way(vec3(0.0, 1.0, 0.0), zero),
                Motion::Away => way(zero, forward),
                Motion::Nearer => way(zero, -forward),
                Motion::Bounce => way(zero, vec3(0.0, (TAU * time).sin().abs() / 1.8 / time.max(1e-6), 0.0)),
                _ => zero,
            };
            object.centre = object.centre + moved;
            match motion {
                Motion::Spin => object.turn += PI * time,
                Motion::Grow => resize(object, 1.0 + 0.5 * time, flat),
                Motion::Shrink => resize(object, 1.0 - 0.45 * time, flat),
                _ => {}
            }
        }
        scene
    }

    /// One of the pictures and its truth.
    pub fn frame(&self, number: usize, size: usize) -> Rendered {
        self.at(self.time(number)).render(size)
    }

    /// When a picture is taken.
    pub fn time(&self, number: usize) -> f32 {
        number as f32 / self.frames.saturating_sub(1).max(1) as f32
    }

    /// What every object does.
    pub fn caption(&self) -> String {
        let said = |(object, motion): (&Object, &Motion)| format!("{} {motion}", brief(object));
        join(self.scene.objects.iter().zip(&self.motions).map(said).collect())
    }
}

const FLAT: &[Motion] =
    &[Motion::Left, Motion::Right, Motion::Up, Motion::Down, Motion::Spin, Motion::Grow, Motion::Shrink];

const SOLID: &[Motion] = &[
    Motion::Left,
    Motion::Right,
    Motion::Away,
    Motion::Nearer,
    Motion::Spin,
    Motion::Grow,
    Motion::Shrink,
    Motion::Bounce,
];

/// Larger or smaller by a factor; solids stay on the ground.
fn resize(object: &mut Object, factor: f32, flat: bool) {
    let radius = object.radius * factor;
    if !flat {
        object.centre.y += (radius - object.radius) * form(object.kind).floor;
    }
    object.radius = radius;
}

/// A direction along the ground.
fn level(way: Vec3) -> Vec3 {
    vec3(way.x, 0.0, way.z).unit()
}

/// Whether two objects stay clear of each other: in the picture, or on the ground.
fn apart(scene: &Scene, a: &Object, b: &Object) -> bool {
    if scene.is_flat() {
        let way = a.centre - b.centre;
        return way.x.hypot(way.y) > 0.7 * (a.radius + b.radius);
    }
    super::compose::clear_of(a, b)
}
