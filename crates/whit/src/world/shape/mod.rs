//! Solid shapes as signed distances: made from a seed, of a few classes of things built from parts, turned
//! into watertight meshes, points with distances, and small volumes with labels.

pub mod distance;
mod look;
pub mod make;
pub mod mesh;
pub mod points;
pub mod volume;

pub use distance::{Part, Shape};
pub use look::preview;
pub use make::{Model, Thing};
pub use mesh::Mesh;
pub use volume::Volume;
