//! Linear layers in `f32`.
