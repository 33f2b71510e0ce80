//! What is painted on surfaces: bands, spots and squares, as signed distances, so that their edges are smooth.

use super::Texture;

/// The period of the bands and squares.
pub(super) const PERIOD: f32 = 0.62;

/// The signed distance to the pattern's second tone at a place of the surface; inside it is negative.
pub(super) fn distance(texture: Texture, u: f32, v: f32) -> f32 {
    match texture {
        Texture::Plain => f32::INFINITY,
        Texture::Striped => band(v),
        Texture::Spotted => spot(u, v),
        Texture::Checkered => {
            let (across, along) = (band(u), band(v));
            across.min(along).max(-across.max(along))
        }
    }
}

/// The largest whole number that is not larger; without the call that rounding is on older processors.
fn whole(value: f32) -> f32 {
    let cut = value as i32 as f32;
    cut - f32::from(u8::from(cut > value))
}

/// The distance to the nearest of the bands, half a period wide.
fn band(v: f32) -> f32 {
    let phase = v * (1.0 / PERIOD);
    ((phase - whole(phase) - 0.5).abs() - 0.25) * PERIOD
}

/// The distance to the nearest spot, where it is near; every other row is moved by half a period.
fn spot(u: f32, v: f32) -> f32 {
    let row = whole(v * (1.0 / PERIOD));
    let shift = if row as i32 & 1 == 0 { 0.0 } else { 0.5 };
    let across = u * (1.0 / PERIOD) + shift;
    let (x, y) = (across - whole(across) - 0.5, v * (1.0 / PERIOD) - row - 0.5);
    // A spot of the next row is no nearer than the end of the cell, 0.17 away.
    ((x * x + y * y).sqrt() - 0.33).min(0.17) * PERIOD
}

/// The second tone of a colour: lighter for dark colours, darker for light ones.
pub(super) fn second_tone(paint: [f32; 3]) -> [f32; 3] {
    let bright = 0.3 * paint[0] + 0.59 * paint[1] + 0.11 * paint[2];
    paint.map(|channel| if bright < 0.55 { channel + 0.72 * (1.0 - channel) } else { channel * 0.42 })
}

/// How much of a pixel lies inside of an edge that is `distance` pixels away.
pub(super) fn coverage(distance: f32) -> f32 {
    (0.5 - distance).clamp(0.0, 1.0)
}

/// A colour in which light adds up: the picture's values squared.
pub(super) fn linear(colour: [f32; 3]) -> [f32; 3] {
    colour.map(|channel| channel * channel)
}

/// `part` of the way from one colour to the other.
pub(super) fn mix(from: [f32; 3], to: [f32; 3], part: f32) -> [f32; 3] {
    std::array::from_fn(|channel| from[channel] + part * (to[channel] - from[channel]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The part of a surface that has the second tone.
    fn share(texture: Texture) -> f32 {
        let inside = |at: i32| distance(texture, (at % 100) as f32 * 0.02, (at / 100) as f32 * 0.02) < 0.0;
        (0..10_000).filter(|&at| inside(at)).count() as f32 / 10_000.0
    }

    #[test]
    fn patterns_cover_the_parts_they_should() {
        assert!(share(Texture::Plain) == 0.0);
        assert!((share(Texture::Striped) - 0.5).abs() < 0.05);
        assert!((share(Texture::Checkered) - 0.5).abs() < 0.05);
        assert!((share(Texture::Spotted) - 0.342).abs() < 0.03, "pi 0.33^2 of each square");
    }

    #[test]
    fn distances_never_grow_faster_than_the_way() {
        for texture in [Texture::Striped, Texture::Spotted, Texture::Checkered] {
            for step in 0..2000 {
                let (u, v) = (step as f32 * 0.0123, step as f32 * 0.0077);
                let moved = distance(texture, u + 0.003, v + 0.004) - distance(texture, u, v);
                assert!(moved.abs() < 0.008, "{texture} at {u} {v} moves by {moved}");
            }
        }
    }
}
