//! How two objects stand to each other, as seen in the picture; where that is a close call, nobody says.

use std::fmt;

use super::{Object, Scene, words};

words! {
    /// How one object stands to another.
    Relation {
        /// Its centre is farther left.
        LeftOf = "to the left of",
        /// Its centre is farther right.
        RightOf = "to the right of",
        /// Flat: its centre is higher.
        Above = "above",
        /// Flat: its centre is lower.
        Below = "below",
        /// Solid: it stands nearer to the viewer.
        InFrontOf = "in front of",
        /// Solid: it stands farther from the viewer.
        Behind = "behind",
        /// Solid: it stands on top of the other.
        On = "on top of",
    }
}

/// How far apart two centres are in the picture before one is said to be left of or above the other.
const MARGIN: f32 = 0.1;
/// How far apart they are in depth before one is said to be behind the other, in units of the ground.
const DEPTH_MARGIN: f32 = 0.8;

impl Scene {
    /// Whether object `a` stands so to object `b`; none if it is a close call or makes no sense here.
    pub fn holds(&self, a: usize, relation: Relation, b: usize) -> Option<bool> {
        let (first, second) = (self.objects.get(a)?, self.objects.get(b)?);
        let gap = match relation {
            _ if a == b => return None,
            Relation::On if self.is_flat() => return None,
            Relation::On => return Some(first.on == Some(b)),
            Relation::LeftOf => self.gap(second, first, |spot| spot.0),
            Relation::RightOf => self.gap(first, second, |spot| spot.0),
            Relation::Above if self.is_flat() => self.gap(second, first, |spot| spot.1),
            Relation::Below if self.is_flat() => self.gap(first, second, |spot| spot.1),
            Relation::InFrontOf if !self.is_flat() => self.depth_gap(second, first),
            Relation::Behind if !self.is_flat() => self.depth_gap(first, second),
            _ => return None,
        };
        (gap.abs() > 1.0).then_some(gap > 0.0)
    }

    /// Every pair of objects and what is true of it.
    pub fn relations(&self) -> Vec<(usize, Relation, usize)> {
        let count = self.objects.len();
        let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
        let told = pairs.flat_map(|(a, b)| Relation::ALL.iter().map(move |&relation| (a, relation, b)));
        told.filter(|&(a, relation, b)| self.holds(a, relation, b) == Some(true)).collect()
    }

    fn gap(&self, a: &Object, b: &Object, of: impl Fn((f32, f32)) -> f32) -> f32 {
        let place = |object| {
            let spot = self.spot(object);
            (spot.x, spot.y)
        };
        (of(place(a)) - of(place(b))) / MARGIN
    }

    /// Stacked objects are neither before nor behind each other.
    fn depth_gap(&self, a: &Object, b: &Object) -> f32 {
        let (way, view) = (a.centre - b.centre, &self.view);
        let along = super::vec3(view.forward.x, 0.0, view.forward.z).unit();
        way.dot(along) / DEPTH_MARGIN
    }
}

impl Relation {
    /// What is true of `b` and `a` if this is true of `a` and `b`; standing on has no such word.
    pub const fn inverse(self) -> Option<Self> {
        Some(match self {
            Self::LeftOf => Self::RightOf,
            Self::RightOf => Self::LeftOf,
            Self::Above => Self::Below,
            Self::Below => Self::Above,
            Self::InFrontOf => Self::Behind,
            Self::Behind => Self::InFrontOf,
            Self::On => return None,
        })
    }
}
