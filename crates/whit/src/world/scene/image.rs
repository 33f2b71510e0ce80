//! A picture and what is true of each of its pixels.

use super::Scene;
use super::random::bell;

/// A picture with its truth. Rows run from the top, and columns from the left.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// Pixels on a side.
    pub size: usize,
    /// `[3, size, size]`: red, green and blue from 0 to 1.
    pub image: Vec<f32>,
    /// `[size, size]`: 0 for what is no object, or 1 and the number of the object that is seen.
    pub owner: Vec<u8>,
    /// `[size, size]`: solid, the distance along the camera's axis; flat, the layer, and 1 behind all.
    pub depth: Vec<f32>,
    /// `[3, size, size]`: the surface's normal in the camera's axes: right, up, towards the viewer.
    pub normals: Vec<f32>,
}

/// A rectangle of pixels: columns from `left` and rows from `top`, up to and without `right` and `bottom`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// The first column.
    pub left: usize,
    /// The first row.
    pub top: usize,
    /// The column after the last.
    pub right: usize,
    /// The row after the last.
    pub bottom: usize,
}

impl Rendered {
    /// The pixels in which object `number` is seen.
    pub fn mask(&self, number: usize) -> Vec<bool> {
        self.owner.iter().map(|&owner| usize::from(owner) == number + 1).collect()
    }

    /// How many pixels show object `number`.
    pub fn pixels(&self, number: usize) -> usize {
        self.owner.iter().filter(|&&owner| usize::from(owner) == number + 1).count()
    }

    /// The smallest rectangle around what is seen of object `number`; none if it is hidden.
    pub fn area(&self, number: usize) -> Option<Area> {
        let mut found: Option<Area> = None;
        for (at, _) in self.owner.iter().enumerate().filter(|&(_, &owner)| usize::from(owner) == number + 1) {
            let (x, y) = (at % self.size, at / self.size);
            let area = found.get_or_insert(Area { left: x, top: y, right: x + 1, bottom: y + 1 });
            area.left = area.left.min(x);
            area.right = area.right.max(x + 1);
            area.bottom = y + 1;
        }
        found
    }

    /// The picture as bytes, `[size, size, 3]`.
    pub fn bytes(&self) -> Vec<u8> {
        interleaved(&self.image)
    }
}

/// A planar picture `[3, height, width]` of values from 0 to 1 as bytes `[height, width, 3]`.
pub fn interleaved(planes: &[f32]) -> Vec<u8> {
    let pixels = planes.len() / 3;
    let byte = |value: f32| (value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
    (0..pixels).flat_map(|at| [0, 1, 2].map(|channel| byte(planes[channel * pixels + at]))).collect()
}

/// A picture while it is painted, in linear light.
#[derive(Debug)]
pub(super) struct Canvas {
    pub size: usize,
    pub colour: Vec<[f32; 3]>,
    pub owner: Vec<u8>,
    pub depth: Vec<f32>,
    /// In the camera's axes.
    pub normal: Vec<[f32; 3]>,
}

impl Canvas {
    pub(super) fn new(size: usize) -> Self {
        let pixels = size * size;
        Self {
            size,
            colour: vec![[0.0; 3]; pixels],
            owner: vec![0; pixels],
            depth: vec![1.0; pixels],
            normal: vec![[0.0, 0.0, 1.0]; pixels],
        }
    }

    /// Calls `visit` with each pixel that a circle may touch, and the way to it from the circle's centre.
    pub(super) fn around(
        &mut self,
        x: f32,
        y: f32,
        reach: f32,
        mut visit: impl FnMut(&mut Self, usize, f32, f32),
    ) {
        let (size, step) = (self.size, 1.0 / self.size as f32);
        let (columns, rows) = (span(x, reach, size), span(y, reach, size));
        for row in rows {
            for column in columns.clone() {
                let (dx, dy) = ((column as f32 + 0.5) * step - x, (row as f32 + 0.5) * step - y);
                visit(self, row * size + column, dx, dy);
            }
        }
    }

    /// The picture, with the scene's noise.
    pub(super) fn finish(self, scene: &Scene) -> Rendered {
        let pixels = self.colour.len();
        let (mut image, mut normals) = (vec![0.0; 3 * pixels], vec![0.0; 3 * pixels]);
        for channel in 0..3 {
            let plane = &mut image[channel * pixels..(channel + 1) * pixels];
            plane.iter_mut().zip(&self.colour).for_each(|(value, colour)| *value = colour[channel].sqrt());
            let plane = &mut normals[channel * pixels..(channel + 1) * pixels];
            plane.iter_mut().zip(&self.normal).for_each(|(value, normal)| *value = normal[channel]);
        }
        if scene.noise > 0.0 {
            let key = super::random::noise_key(scene.seed, scene.index);
            add_noise(&mut image, key, scene.noise);
        }
        image.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
        Rendered { size: self.size, image, owner: self.owner, depth: self.depth, normals }
    }
}

/// Adds independent noise to each value.
pub(crate) fn add_noise(values: &mut [f32], key: u64, deviation: f32) {
    for (at, value) in values.iter_mut().enumerate() {
        *value += deviation * bell(key.wrapping_add(at as u64));
    }
}

/// The pixels of a row or column that may touch `centre - reach .. centre + reach`.
pub(super) fn span(centre: f32, reach: f32, size: usize) -> std::ops::Range<usize> {
    let pixels = size as f32;
    let first = ((centre - reach) * pixels - 1.0).max(0.0) as usize;
    let last = ((centre + reach) * pixels + 1.0).clamp(0.0, pixels).ceil() as usize;
    first.min(last)..last.min(size)
}
