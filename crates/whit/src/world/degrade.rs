//! Pictures made worse as cameras and web pages do it: blurred, made smaller, grainy, and squeezed by JPEG.
//! The pair of both is what super-resolution and restoration learn from.

use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage};
use rand::RngExt;
use rand::seq::IndexedRandom;

use super::folder::planes;
use super::scene::image::{add_noise, interleaved};
use super::scene::random::{Purpose, noise_key, stream};

/// What happens to a picture, in this order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Degradation {
    /// The standard deviation of the blur, in pixels of the large picture.
    pub blur: f32,
    /// The picture's side is divided by this.
    pub scale: usize,
    /// The standard deviation of the noise on each channel.
    pub noise: f32,
    /// The quality of a JPEG from 1 to 100; none leaves it out.
    pub jpeg: Option<u8>,
}

/// Why a picture cannot be degraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DegradeError {
    /// The side is no multiple of the scale.
    #[error("a side of {size} pixels cannot be divided by {scale}; choose a scale that divides it")]
    Scale {
        /// The picture's side.
        size: usize,
        /// What it should be divided by.
        scale: usize,
    },
    /// The number of values does not fit the size.
    #[error("a picture of {size} x {size} pixels has {} values, not {values}", 3 * size * size)]
    Values {
        /// The picture's side.
        size: usize,
        /// How many values there are.
        values: usize,
    },
    /// No such quality.
    #[error("a JPEG of quality {0} does not exist; give 1 to 100")]
    Quality(u8),
}

impl Degradation {
    /// A smaller picture and nothing else.
    pub const fn smaller(scale: usize) -> Self {
        Self { blur: 0.0, scale, noise: 0.0, jpeg: None }
    }

    /// The degradation of a sample: of every sort a little, and a JPEG three times in four.
    pub fn sample(seed: u64, index: u64, scale: usize) -> Self {
        let mut random = stream(seed, index, Purpose::Degradation);
        let quality = [40, 50, 60, 70, 80, 90].choose(&mut random).copied();
        Self {
            blur: random.random_range(0.2..0.45) * scale as f32,
            scale,
            noise: random.random_range(0.0..0.04),
            jpeg: quality.filter(|_| random.random_bool(0.75)),
        }
    }

    /// The degraded picture, `[3, size / scale, size / scale]`; `seed` and `index` set the noise.
    ///
    /// # Errors
    /// If the scale does not divide the size, or the picture has another size.
    pub fn apply(&self, image: &[f32], size: usize, seed: u64, index: u64) -> Result<Vec<f32>, DegradeError> {
        if self.scale == 0 || !size.is_multiple_of(self.scale) || size == 0 {
            return Err(DegradeError::Scale { size, scale: self.scale });
        }
        if image.len() != 3 * size * size {
            return Err(DegradeError::Values { size, values: image.len() });
        }
        if let Some(quality) = self.jpeg.filter(|quality| !(1..=100).contains(quality)) {
            return Err(DegradeError::Quality(quality));
        }
        let blurred: Vec<f32> =
            image.chunks_exact(size * size).flat_map(|plane| blur(plane, size, self.blur)).collect();
        let mut small = shrink(&blurred, size, self.scale);
        if self.noise > 0.0 {
            add_noise(&mut small, noise_key(seed ^ 0xdeb1, index), self.noise);
        }
        small.iter_mut().for_each(|value| *value = value.clamp(0.0, 1.0));
        Ok(self
            .jpeg
            .map_or_else(|| small.clone(), |quality| through_jpeg(&small, size / self.scale, quality)))
    }
}

/// A plane `[size, size]` under a Gaussian; the border is repeated.
fn blur(plane: &[f32], size: usize, deviation: f32) -> Vec<f32> {
    let weights = gaussian(deviation);
    let along = |plane: &[f32], step: usize, across: usize| -> Vec<f32> {
        let value = |at: usize| {
            let place = at / step % size;
            let from = at - place * step;
            let tap = |(tap, weight): (usize, &f32)| {
                let there = (place + tap).saturating_sub(weights.len() / 2).min(size - 1);
                weight * plane[from + there * step]
            };
            weights.iter().enumerate().map(tap).sum::<f32>()
        };
        (0..size * across).map(value).collect()
    };
    along(&along(plane, 1, size), size, size)
}

/// The weights of a Gaussian, which sum to 1.
fn gaussian(deviation: f32) -> Vec<f32> {
    if deviation <= 0.0 {
        return vec![1.0];
    }
    let reach = (3.0 * deviation).ceil() as i32;
    let weights: Vec<f32> =
        (-reach..=reach).map(|at| (-0.5 * (at as f32 / deviation).powi(2)).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// The mean of each square of `scale` x `scale` pixels.
fn shrink(image: &[f32], size: usize, scale: usize) -> Vec<f32> {
    let small = size / scale;
    let mean = |at: usize| {
        let (channel, row, column) = (at / (small * small), at / small % small, at % small);
        let start = channel * size * size + row * scale * size + column * scale;
        let rows = (0..scale).map(|row| &image[start + row * size..start + row * size + scale]);
        rows.flatten().sum::<f32>() / (scale * scale) as f32
    };
    (0..3 * small * small).map(mean).collect()
}

/// Writes the picture as a JPEG and reads it again.
fn through_jpeg(image: &[f32], size: usize, quality: u8) -> Vec<f32> {
    let side = size as u32;
    let Some(picture) = RgbImage::from_raw(side, side, interleaved(image)) else { return image.to_vec() };
    let mut bytes = Vec::new();
    let written = picture.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, quality));
    let read = written.and_then(|()| image::load_from_memory_with_format(&bytes, ImageFormat::Jpeg));
    // Both ends are in memory, and the size was checked: this does not fail.
    read.map_or_else(|_| image.to_vec(), |read| planes(&read.into_rgb8()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    fn picture(size: usize) -> Vec<f32> {
        World::new(3, 3, 64).unwrap().sample(1).render(size).image
    }

    #[test]
    fn sizes_are_kept_and_values_stay_between_0_and_1() {
        for (size, scale) in [(64, 1), (64, 2), (96, 3), (64, 4), (128, 8)] {
            for index in 0..4 {
                let degradation = Degradation::sample(5, index, scale);
                let small = degradation.apply(&picture(size), size, 5, index).unwrap();
                assert_eq!(small.len(), 3 * (size / scale) * (size / scale));
                assert!(small.iter().all(|value| (0.0..=1.0).contains(value)));
                assert_eq!(small, degradation.apply(&picture(size), size, 5, index).unwrap());
            }
        }
    }

    #[test]
    fn making_smaller_alone_keeps_the_mean() {
        let large = picture(64);
        let small = Degradation::smaller(4).apply(&large, 64, 0, 0).unwrap();
        let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
        assert!((mean(&large) - mean(&small)).abs() < 1e-5);
        assert_eq!(Degradation::smaller(1).apply(&large, 64, 0, 0).unwrap(), large);
    }

    #[test]
    fn each_step_does_its_part() {
        let large = picture(64);
        let distance = |degradation: Degradation| {
            let worse = degradation.apply(&large, 64, 1, 1).unwrap();
            let square: f32 = worse.iter().zip(&large).map(|(a, b)| (a - b) * (a - b)).sum();
            (square / large.len() as f32).sqrt()
        };
        let same = Degradation::smaller(1);
        let noise = distance(Degradation { noise: 0.05, ..same });
        assert!((0.03..0.055).contains(&noise), "clipping takes a little of {noise}");
        assert!(distance(Degradation { blur: 1.0, ..same }) < distance(Degradation { blur: 2.0, ..same }));
        let jpeg = |quality| distance(Degradation { jpeg: Some(quality), ..same });
        assert!(jpeg(95) > 0.0 && jpeg(95) < jpeg(30) && jpeg(30) < 0.1, "{} {}", jpeg(95), jpeg(30));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let apply = |degradation: Degradation, size| degradation.apply(&[0.0; 3 * 64 * 64], size, 0, 0);
        assert_eq!(apply(Degradation::smaller(3), 64), Err(DegradeError::Scale { size: 64, scale: 3 }));
        assert_eq!(apply(Degradation::smaller(0), 64), Err(DegradeError::Scale { size: 64, scale: 0 }));
        assert!(matches!(apply(Degradation::smaller(2), 32), Err(DegradeError::Values { .. })));
        let jpeg = Degradation { jpeg: Some(0), ..Degradation::smaller(1) };
        assert_eq!(apply(jpeg, 64), Err(DegradeError::Quality(0)));
    }
}
