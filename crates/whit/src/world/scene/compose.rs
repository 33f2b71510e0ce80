//! Puts objects into a scene: as many as the level allows, none outside of the picture, none hidden too much.

use std::f32::consts::PI;

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::level::Rules;
use super::setting::{backdrop, clutter, light, tilt};
use super::solid::form;
use super::{Colour, Kind, Object, Scene, Size, Texture, Vec3, View, World, vec3};

/// How often a place is looked for before an object is left out.
const TRIES: usize = 40;

pub(super) struct Composer<'a> {
    rules: Rules,
    flat: bool,
    pub(super) scene: Scene,
    random: &'a mut ChaCha8Rng,
}

impl<'a> Composer<'a> {
    pub(super) fn new(world: &World, flat: bool, random: &'a mut ChaCha8Rng) -> Self {
        let rules = world.level.rules();
        let mut scene = Scene {
            seed: world.seed,
            index: 0,
            class: 0,
            objects: Vec::new(),
            backdrop: backdrop(&rules, flat, random),
            clutter: Vec::new(),
            view: View::new(tilt(rules.tilt, random)),
            light: light(&rules, random),
            noise: rules.noise * random.random_range(0.5..=1.0),
        };
        scene.clutter = (0..rules.clutter).map(|_| clutter(flat, random)).collect();
        Self { rules, flat, scene, random }
    }

    pub(super) fn fill(&mut self, describe: impl FnOnce(&mut Object)) {
        let count = self.random.random_range(self.rules.objects.clone());
        let largest = if count == 1 && self.rules.objects == (1..=1) {
            *[Size::Medium, Size::Large].choose(self.random).unwrap_or(&Size::Large)
        } else if count == 1 {
            *Size::ALL.choose(self.random).unwrap_or(&Size::Large)
        } else {
            *[Size::Medium, Size::Large, Size::Large].choose(self.random).unwrap_or(&Size::Large)
        };
        let mut subject = self.object(largest);
        describe(&mut subject);
        self.settle(subject);
        for _ in 1..count {
            let size = if largest == Size::Large { self.random.random_range(0..2) } else { 0 };
            let object = self.object(Size::ALL[size]);
            self.settle(object);
        }
        if self.flat {
            self.layer();
        } else {
            self.sweep();
        }
    }

    /// Takes away the pebbles that objects stand on.
    fn sweep(&mut self) {
        let objects = &self.scene.objects;
        self.scene.clutter.retain(|pebble| {
            objects.iter().all(|object| {
                let way = object.centre - pebble.centre;
                way.x.hypot(way.z) > object.radius * form(object.kind).footprint + pebble.radius
            })
        });
    }

    /// An object without a place.
    fn object(&mut self, size: Size) -> Object {
        let kinds = if self.flat { Kind::FLAT } else { Kind::SOLID };
        // One in three is like an earlier one, so that there is something to count.
        let again = self.scene.objects.choose(self.random).map(|object| object.kind);
        let kind = again.filter(|_| self.random.random_bool(0.33));
        let radius = match (self.flat, size) {
            (true, Size::Small) => 0.075..0.09,
            (true, Size::Medium) => 0.115..0.135,
            (true, Size::Large) => 0.175..0.21,
            (false, Size::Small) => 0.36..0.42,
            (false, Size::Medium) => 0.54..0.62,
            (false, Size::Large) => 0.78..0.90,
        };
        let turned = self.rules.objects != (1..=1) || !self.flat;
        Object {
            kind: kind.unwrap_or_else(|| *kinds.choose(self.random).unwrap_or(&kinds[0])),
            colour: *Colour::ALL.choose(self.random).unwrap_or(&Colour::Red),
            texture: *self.rules.textures.choose(self.random).unwrap_or(&Texture::Plain),
            size,
            centre: vec3(0.5, 0.5, 0.0),
            radius: self.random.random_range(radius),
            turn: if turned { self.random.random_range(-PI..PI) } else { 0.0 },
            paint: [0.0; 3],
            on: None,
        }
    }

    /// Finds a place for an object and paints it; one without a place is left out, but never the first.
    fn settle(&mut self, mut object: Object) {
        let jitter = self.rules.jitter;
        object.paint = object.colour.rgb();
        if jitter > 0.0 {
            object.paint = object
                .paint
                .map(|channel| (channel + self.random.random_range(-jitter..jitter)).clamp(0.0, 1.0));
        }
        for attempt in 0..TRIES {
            self.place(&mut object, attempt);
            if self.fits(&object) {
                self.scene.objects.push(object);
                return;
            }
        }
        if self.scene.objects.is_empty() {
            object.centre = if self.flat {
                vec3(0.5, 0.5, 0.0)
            } else {
                vec3(0.0, object.radius * form(object.kind).floor, 0.0)
            };
            self.scene.objects.push(object);
        }
    }

    fn place(&mut self, object: &mut Object, attempt: usize) {
        object.on = None;
        if self.flat {
            let margin = (object.radius * object.kind.reach()).min(0.49);
            let mut along = || self.random.random_range(margin..1.0 - margin);
            object.centre = vec3(along(), along(), 0.0);
            return;
        }
        let floor = object.radius * form(object.kind).floor;
        let stack = attempt == 0 && self.rules.textures.len() > 2 && self.random.random_bool(0.35);
        if let Some((at, base, top)) = self.base(object).filter(|_| stack) {
            object.on = Some(at);
            object.centre = base + vec3(0.0, top + floor, 0.0);
            return;
        }
        let mut along = || self.random.random_range(-2.5f32..2.5);
        object.centre = vec3(along(), floor, along());
    }

    /// A free flat top that is wide enough to stand on: whose, where its middle is, and how much higher it is.
    fn base(&self, object: &Object) -> Option<(usize, Vec3, f32)> {
        let wide = |(at, below): &(usize, &Object)| {
            let form = form(below.kind);
            let free = self.scene.objects.iter().all(|other| other.on != Some(*at));
            free && below.on.is_none() && form.top * below.radius > 0.9 * object.radius
        };
        let (at, below) = self.scene.objects.iter().enumerate().find(wide)?;
        Some((at, below.centre, below.radius * form(below.kind).floor))
    }

    /// Whether it is in the picture, goes through no other and hides none too much.
    fn fits(&self, object: &Object) -> bool {
        if !in_frame(&self.scene, object) {
            return false;
        }
        let spot = self.scene.spot(object);
        self.scene.objects.iter().enumerate().all(|(at, other)| {
            let there = self.scene.spot(other);
            let gap = (spot.x - there.x).hypot(spot.y - there.y);
            let clear = gap > self.rules.apart * (spot.reach + there.reach);
            object.on == Some(at) || (clear && (self.flat || clear_of(object, other)))
        })
    }

    /// Puts flat objects into layers, in any order.
    fn layer(&mut self) {
        let count = self.scene.objects.len();
        let mut order: Vec<usize> = (0..count).collect();
        order.shuffle(self.random);
        for (object, layer) in self.scene.objects.iter_mut().zip(order) {
            object.centre.z = (layer + 1) as f32 / (count + 1) as f32;
        }
    }
}

/// Whether all of an object is in the picture.
pub(super) fn in_frame(scene: &Scene, object: &Object) -> bool {
    let spot = scene.spot(object);
    let within = |at: f32| at - spot.reach > -0.01 && at + spot.reach < 1.01;
    within(spot.x) && within(spot.y)
}

/// Whether two solids stand apart on the ground.
pub(super) fn clear_of(object: &Object, other: &Object) -> bool {
    let wide = |object: &Object| object.radius * form(object.kind).footprint;
    let way = object.centre - other.centre;
    way.x.hypot(way.z) > wide(object) + wide(other) + 0.05
}
