//! A world: from a seed and a number to a scene, by a level of difficulty.

use std::f32::consts::{PI, TAU};
use std::ops::RangeInclusive;

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

use super::random::{Purpose, stream};
use super::solid::form;
use super::view::Tilt;
use super::{Backdrop, Clutter, Colour, Kind, Object, Scene, Size, Texture, View, vec3};

/// Where scenes come from. Each is a pure function of the world and the scene's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    /// Sets every scene.
    pub seed: u64,
    /// How hard the pictures are.
    pub level: Level,
    /// Flat, solid or both.
    pub style: Style,
    /// Pixels on a side.
    pub size: usize,
    /// What the classes are.
    pub labels: Labels,
}

/// From 1, one plain object on a plain ground, to 5, many textured ones with clutter, noise and occlusion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(u8);

/// How objects are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Flat shapes.
    Flat,
    /// Lit solids on a ground.
    Solid,
    /// Each scene is one or the other, by its class.
    #[default]
    Both,
}

/// What the class of a scene says of its subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Labels {
    /// Its kind.
    #[default]
    Kind,
    /// Its kind and colour.
    KindAndColour,
    /// Its kind and texture.
    KindAndTexture,
}

/// What no world can be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorldError {
    /// No such level.
    #[error("there is no level {0}: levels go from 1 (one plain object) to 5 (many, with clutter and noise)")]
    Level(u8),
    /// Too few pixels to show anything, or too many.
    #[error("pictures cannot be {0} pixels wide: give a size from 16 to 256")]
    Size(usize),
}

impl Level {
    /// Every level, the easiest first.
    pub const ALL: [Self; 5] = [Self(1), Self(2), Self(3), Self(4), Self(5)];

    /// A level by its number.
    ///
    /// # Errors
    /// If it is not from 1 to 5.
    pub const fn new(number: u8) -> Result<Self, WorldError> {
        if number >= 1 && number <= 5 { Ok(Self(number)) } else { Err(WorldError::Level(number)) }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// What a level allows.
#[derive(Debug)]
struct Rules {
    objects: RangeInclusive<usize>,
    textures: &'static [Texture],
    /// How near the circles around two objects may come in the picture: 1 is touching.
    apart: f32,
    /// How far colours and lights may move.
    jitter: f32,
    patterned: bool,
    clutter: usize,
    noise: f32,
    /// How far the camera may turn and lean, in radians.
    tilt: f32,
}

const PLAIN: &[Texture] = &[Texture::Plain];
const BANDS: &[Texture] = &[Texture::Plain, Texture::Striped];
const EVERY: &[Texture] = Texture::ALL;

impl Level {
    fn rules(self) -> Rules {
        let easy = Rules {
            objects: 1..=1,
            textures: PLAIN,
            apart: 1.05,
            jitter: 0.0,
            patterned: false,
            clutter: 0,
            noise: 0.0,
            tilt: 0.0,
        };
        match self.0 {
            1 => easy,
            2 => Rules { objects: 1..=2, textures: BANDS, jitter: 0.02, ..easy },
            3 => Rules { objects: 2..=4, textures: EVERY, jitter: 0.04, ..easy },
            4 => Rules {
                objects: 3..=6,
                textures: EVERY,
                apart: 0.8,
                jitter: 0.06,
                patterned: true,
                noise: 0.015,
                tilt: 0.25,
                clutter: 0,
            },
            _ => Rules {
                objects: 4..=8,
                textures: EVERY,
                apart: 0.68,
                jitter: 0.08,
                patterned: true,
                clutter: 10,
                noise: 0.05,
                tilt: 0.5,
            },
        }
    }
}

impl World {
    /// A world of both styles whose classes are kinds.
    ///
    /// # Errors
    /// If the level is not from 1 to 5, or the size not from 16 to 256.
    pub fn new(seed: u64, level: u8, size: usize) -> Result<Self, WorldError> {
        if !(16..=256).contains(&size) {
            return Err(WorldError::Size(size));
        }
        let (style, labels) = (Style::default(), Labels::default());
        Ok(Self { seed, level: Level::new(level)?, style, size, labels })
    }

    /// The same with another style.
    pub fn with_style(self, style: Style) -> Self {
        Self { style, ..self }
    }

    /// The same with other classes.
    pub fn with_labels(self, labels: Labels) -> Self {
        Self { labels, ..self }
    }

    /// The kinds that its objects have.
    pub fn kinds(&self) -> &'static [Kind] {
        match self.style {
            Style::Flat => Kind::FLAT,
            Style::Solid => Kind::SOLID,
            Style::Both => Kind::ALL,
        }
    }

    /// The names of the classes, in order.
    pub fn classes(&self) -> Vec<String> {
        (0..self.class_count()).map(|class| self.class_name(class)).collect()
    }

    /// How many classes there are.
    pub fn class_count(&self) -> usize {
        self.kinds().len() * self.variants()
    }

    /// How many classes each kind has.
    fn variants(&self) -> usize {
        match self.labels {
            Labels::Kind => 1,
            Labels::KindAndColour => Colour::ALL.len(),
            Labels::KindAndTexture => self.level.rules().textures.len(),
        }
    }

    fn class_name(&self, class: usize) -> String {
        let (kind, variant) = self.split(class);
        match self.labels {
            Labels::Kind => kind.name().to_owned(),
            Labels::KindAndColour => format!("{} {kind}", Colour::ALL[variant]),
            Labels::KindAndTexture => format!("{} {kind}", Texture::ALL[variant]),
        }
    }

    fn split(&self, class: usize) -> (Kind, usize) {
        let variants = self.variants();
        (self.kinds()[class / variants % self.kinds().len()], class % variants)
    }

    /// The class of a scene: each block of [`Self::class_count`] numbers has every class once.
    pub fn class(&self, index: u64) -> usize {
        let count = self.class_count() as u64;
        let mut order: Vec<usize> = (0..self.class_count()).collect();
        order.shuffle(&mut stream(self.seed, index / count, Purpose::Labels));
        order[(index % count) as usize]
    }

    /// The scene of a number.
    pub fn sample(&self, index: u64) -> Scene {
        let class = self.class(index);
        let (kind, variant) = self.split(class);
        let mut random = stream(self.seed, index, Purpose::Scene);
        let mut composer = Composer::new(self, kind.is_flat(), &mut random);
        composer.scene.index = index;
        composer.scene.class = class;
        composer.fill(|subject| {
            subject.kind = kind;
            match self.labels {
                Labels::Kind => {}
                Labels::KindAndColour => subject.colour = Colour::ALL[variant],
                Labels::KindAndTexture => subject.texture = Texture::ALL[variant],
            }
        });
        composer.scene
    }
}

/// How often a place is looked for before an object is left out.
const TRIES: usize = 40;

struct Composer<'a> {
    rules: Rules,
    flat: bool,
    scene: Scene,
    random: &'a mut ChaCha8Rng,
}

impl<'a> Composer<'a> {
    fn new(world: &World, flat: bool, random: &'a mut ChaCha8Rng) -> Self {
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

    fn fill(&mut self, describe: impl FnOnce(&mut Object)) {
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
    fn base(&self, object: &Object) -> Option<(usize, super::Vec3, f32)> {
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

fn tilt(most: f32, random: &mut impl Rng) -> Tilt {
    let mut turn = |most: f32| if most > 0.0 { random.random_range(-most..most) } else { 0.0 };
    Tilt { pitch: 0.62 + turn(most * 0.3), yaw: turn(most), roll: turn(most * 0.4) }
}

fn light(rules: &Rules, random: &mut impl Rng) -> super::Vec3 {
    let spread = rules.jitter * 6.0;
    let mut turn = || if spread > 0.0 { random.random_range(-spread..spread) } else { 0.0 };
    vec3(-0.55 + turn(), 1.0, -0.45 + turn()).unit()
}

/// A colour near grey: what is behind never looks like an object.
fn pale(grey: f32, tint: f32, random: &mut impl Rng) -> [f32; 3] {
    [(); 3].map(|()| (grey + if tint > 0.0 { random.random_range(-tint..tint) } else { 0.0 }).clamp(0.0, 1.0))
}

fn backdrop(rules: &Rules, flat: bool, random: &mut impl Rng) -> Backdrop {
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

fn clutter(flat: bool, random: &mut impl Rng) -> Clutter {
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
