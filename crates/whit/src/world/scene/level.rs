//! Levels of difficulty and what each allows.

use std::ops::RangeInclusive;

use super::{Texture, WorldError};

/// From 1, one plain object on a plain ground, to 5, many textured ones with clutter, noise and occlusion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(u8);

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
pub(super) struct Rules {
    pub objects: RangeInclusive<usize>,
    pub textures: &'static [Texture],
    /// How near the circles around two objects may come in the picture: 1 is touching.
    pub apart: f32,
    /// How far colours and lights may move.
    pub jitter: f32,
    pub patterned: bool,
    pub clutter: usize,
    pub noise: f32,
    /// How far the camera may turn and lean, in radians.
    pub tilt: f32,
}

const PLAIN: &[Texture] = &[Texture::Plain];
const BANDS: &[Texture] = &[Texture::Plain, Texture::Striped];
const EVERY: &[Texture] = Texture::ALL;

impl Level {
    /// What may be in its scenes.
    pub(super) fn rules(self) -> Rules {
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
