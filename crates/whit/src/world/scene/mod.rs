//! What is in a scene: objects with a kind, a colour, a texture, a size and a place. A scene is found
//! from a seed alone and holds everything that can be said of its picture, so truth is exact.

pub mod caption;
pub mod clip;
mod compose;
mod flat;
pub(crate) mod image;
mod level;
mod pattern;
pub mod question;
pub(crate) mod random;
pub mod relation;
mod render;
mod setting;
mod solid;
#[cfg(test)]
mod tests;
pub mod vector;
mod view;
pub mod vocabulary;
mod worlds;

use std::fmt;

pub use caption::Phrasing;
pub use clip::{Clip, Motion};
pub use image::{Area, Rendered};
pub use level::Level;
pub use question::{Ask, Question};
pub use relation::Relation;
pub use vector::{Vec3, vec3};
pub use view::View;
pub use worlds::{Labels, Style, World, WorldError};

/// Makes an enum of words: its values in order, and how each is called.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$note:meta])* $value:ident = $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$note])* $value,)* }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$value,)*];

            /// What captions call it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$value => $word,)* }
            }

            /// The value that captions call `name`.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

pub(crate) use words;

words! {
    /// What an object is: first the flat kinds, then the solid ones.
    Kind {
        /// A disc.
        Circle = "circle",
        /// Four equal sides.
        Square = "square",
        /// Three equal sides.
        Triangle = "triangle",
        /// Five points.
        Star = "star",
        /// Two bars.
        Cross = "cross",
        /// A disc with a round hole.
        Ring = "ring",
        /// A heart.
        Heart = "heart",
        /// A crescent.
        Moon = "moon",
        /// A ball.
        Sphere = "sphere",
        /// Six square faces.
        Cube = "cube",
        /// An upright cylinder.
        Cylinder = "cylinder",
        /// An upright cone.
        Cone = "cone",
        /// Four sides that meet above a square.
        Pyramid = "pyramid",
        /// A ring of round cross-section that lies on the ground.
        Torus = "torus",
    }
}

words! {
    /// The colour of an object; what is no object is grey or pale.
    Colour {
        /// Red.
        Red = "red",
        /// Orange.
        Orange = "orange",
        /// Yellow.
        Yellow = "yellow",
        /// Green.
        Green = "green",
        /// Cyan.
        Cyan = "cyan",
        /// Blue.
        Blue = "blue",
        /// Purple.
        Purple = "purple",
        /// Pink.
        Pink = "pink",
    }
}

words! {
    /// What is painted on an object, in a tone lighter or darker than its colour.
    Texture {
        /// Nothing.
        Plain = "plain",
        /// Bands.
        Striped = "striped",
        /// Round spots.
        Spotted = "spotted",
        /// Squares in turn.
        Checkered = "checkered",
    }
}

words! {
    /// How large an object is; the sizes are far enough apart to be told.
    Size {
        /// Small.
        Small = "small",
        /// Between the others.
        Medium = "medium-sized",
        /// Large.
        Large = "large",
    }
}

impl Kind {
    /// Those that are drawn flat.
    pub const FLAT: &'static [Self] = Self::ALL.split_at(8).0;
    /// Those that stand on a ground and are lit.
    pub const SOLID: &'static [Self] = Self::ALL.split_at(8).1;

    /// Whether it is drawn flat.
    pub const fn is_flat(self) -> bool {
        (self as usize) < Self::FLAT.len()
    }

    /// The word for several of them.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Circle => "circles",
            Self::Square => "squares",
            Self::Triangle => "triangles",
            Self::Star => "stars",
            Self::Cross => "crosses",
            Self::Ring => "rings",
            Self::Heart => "hearts",
            Self::Moon => "moons",
            Self::Sphere => "spheres",
            Self::Cube => "cubes",
            Self::Cylinder => "cylinders",
            Self::Cone => "cones",
            Self::Pyramid => "pyramids",
            Self::Torus => "tori",
        }
    }

    /// How far an object of radius 1 reaches from its centre.
    pub fn reach(self) -> f32 {
        if self.is_flat() { flat::outline(self).reach } else { solid::form(self).reach }
    }
}

impl Colour {
    /// Red, green and blue from 0 to 1, in sRGB.
    pub const fn rgb(self) -> [f32; 3] {
        match self {
            Self::Red => [0.85, 0.13, 0.13],
            Self::Orange => [0.97, 0.53, 0.09],
            Self::Yellow => [0.97, 0.88, 0.18],
            Self::Green => [0.16, 0.65, 0.26],
            Self::Cyan => [0.16, 0.78, 0.82],
            Self::Blue => [0.15, 0.33, 0.86],
            Self::Purple => [0.51, 0.22, 0.72],
            Self::Pink => [0.97, 0.52, 0.75],
        }
    }
}

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// What colour captions give it.
    pub colour: Colour,
    /// What is painted on it.
    pub texture: Texture,
    /// Its size in words.
    pub size: Size,
    /// Its centre. Flat: `x` right and `y` down from 0 to 1, `z` the layer, larger is farther. Solid: on the
    /// ground, `y` up.
    pub centre: Vec3,
    /// The radius of a disc of the same area, or of a ball with the same surface.
    pub radius: f32,
    /// How far it is turned, in radians: in the picture, or about the upward axis.
    pub turn: f32,
    /// Red, green and blue from 0 to 1 as painted: the colour, slightly moved at high levels.
    pub paint: [f32; 3],
    /// The object that this one stands on.
    pub on: Option<usize>,
}

/// What is behind the objects.
#[derive(Clone, Debug, PartialEq)]
pub struct Backdrop {
    /// The first colour, in sRGB.
    pub near: [f32; 3],
    /// The colour it turns into, or its pattern's other tone.
    pub far: [f32; 3],
    /// A pattern of the two colours; none is a gradient.
    pub pattern: Texture,
    /// The direction of the gradient and the pattern, in radians.
    pub turn: f32,
    /// The pattern's period, as a part of the picture.
    pub scale: f32,
}

/// A grey mark that is no object: a streak where objects are flat, a pebble where they are solid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clutter {
    /// Its centre, as an object's.
    pub centre: Vec3,
    /// Half the width of a streak, or a pebble's radius.
    pub radius: f32,
    /// From the centre of a streak to either end.
    pub half: [f32; 2],
    /// How bright, from 0 to 1.
    pub grey: f32,
}

/// Everything in one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// The seed of its world.
    pub seed: u64,
    /// Its number in its world.
    pub index: u64,
    /// The class, by the world's labels.
    pub class: usize,
    /// The objects; the first is the subject, of a larger [`Size`] than all others.
    pub objects: Vec<Object>,
    /// What is behind them.
    pub backdrop: Backdrop,
    /// Marks that are no objects.
    pub clutter: Vec<Clutter>,
    /// From where solid objects are seen.
    pub view: View,
    /// The direction to the light.
    pub light: Vec3,
    /// The standard deviation of the noise on each channel.
    pub noise: f32,
}

impl Scene {
    /// Whether its objects are flat.
    pub fn is_flat(&self) -> bool {
        self.objects.first().is_none_or(|object| object.kind.is_flat())
    }

    /// The object that the class is about.
    pub fn subject(&self) -> Option<&Object> {
        self.objects.first()
    }

    /// Where an object appears: its centre, 0 to 1 rightwards and downwards, and how far it may reach.
    pub fn spot(&self, object: &Object) -> Spot {
        let reach = object.radius * object.kind.reach();
        if object.kind.is_flat() {
            return Spot { x: object.centre.x, y: object.centre.y, reach };
        }
        self.view.spot(object.centre, reach)
    }

    /// How far an object is from the viewer, by its centre; larger is farther.
    pub fn distance(&self, object: &Object) -> f32 {
        if object.kind.is_flat() { object.centre.z } else { self.view.depth(object.centre) }
    }
}

/// Where something appears in a picture of side 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spot {
    /// From the left.
    pub x: f32,
    /// From the top.
    pub y: f32,
    /// The radius of a circle around it that holds it all.
    pub reach: f32,
}
