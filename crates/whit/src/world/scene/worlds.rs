//! A world: from a seed and a number to a scene.

use rand::seq::SliceRandom;

use super::compose::Composer;
use super::random::{Purpose, stream};
use super::{Colour, Kind, Level, Scene, Texture};

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
