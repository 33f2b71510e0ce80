//! Resizing in Pillow's fixed point: separable filters whose reach grows where an image shrinks, weights of
//! 22 bits after the point, and eight bits again between the two passes.

use super::Picture;

/// Bits after the point of a weight.
const PRECISION: u32 = 32 - 8 - 2;

/// How pixels between pixels are made, by the number that `resample` has in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// Lanczos' windowed sinc of three lobes.
    Lanczos,
    /// Linear interpolation.
    Bilinear,
    /// Cubic convolution with a = -1/2.
    Bicubic,
    /// The mean of what a pixel covers.
    Box,
    /// A Hamming window.
    Hamming,
}

impl Filter {
    /// The filter of a number in `preprocessor_config.json`.
    pub fn from_number(number: u64) -> Option<Self> {
        let all = [Self::Nearest, Self::Lanczos, Self::Bilinear, Self::Bicubic, Self::Box, Self::Hamming];
        all.get(usize::try_from(number).ok()?).copied()
    }

    /// How far it reaches, in pixels of the larger scale.
    fn support(self) -> f64 {
        match self {
            Self::Nearest | Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let size = x.abs();
        match self {
            Self::Nearest | Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear => (1.0 - size).max(0.0),
            Self::Hamming if size == 0.0 => 1.0,
            Self::Hamming if size >= 1.0 => 0.0,
            Self::Hamming => {
                let angle = size * std::f64::consts::PI;
                angle.sin() / angle * (0.54 + 0.46 * angle.cos())
            }
            Self::Bicubic if size < 1.0 => (1.5 * size - 2.5) * size * size + 1.0,
            Self::Bicubic if size < 2.0 => (((size - 5.0) * size + 8.0) * size - 4.0) * -0.5,
            Self::Bicubic => 0.0,
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) }
}

/// The pixels that one new pixel is made of: the first, and their weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// The taps of `to` new pixels out of `from`.
fn taps(filter: Filter, from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let (support, shrink) = (filter.support() * stretch, 1.0 / stretch);
    let taps = |index: usize| {
        let centre = (index as f64 + 0.5) * scale;
        let first = ((centre - support + 0.5) as i64).max(0) as usize;
        let end = ((centre + support + 0.5) as i64).clamp(0, from as i64) as usize;
        let weight = |at: usize| filter.weight((at as f64 - centre + 0.5) * shrink);
        let weights: Vec<f64> = (first..end.max(first)).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let sum = if sum == 0.0 { 1.0 } else { sum };
        Taps { first, weights: weights.iter().map(|weight| fixed(weight / sum)).collect() }
    };
    (0..to).map(taps).collect()
}

/// To the nearest, halves away from zero.
fn fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1u32 << PRECISION);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

/// The sum of products, back in eight bits.
fn eight_bits(taps: &Taps, value: impl Fn(usize) -> u8) -> u8 {
    let products = taps.weights.iter().enumerate();
    let sum: i32 = products.fold(1 << (PRECISION - 1), |sum, (at, weight)| {
        sum.wrapping_add(i32::from(value(taps.first + at)).wrapping_mul(*weight))
    });
    (sum >> PRECISION).clamp(0, 255) as u8
}

impl Picture {
    /// The image in another size.
    pub fn resize(&self, [height, width]: [usize; 2], filter: Filter) -> Self {
        if filter == Filter::Nearest {
            return self.nearest([height, width]);
        }
        if self.rows_first([height, width]) {
            return self.heighten(height, filter).widen(width, filter);
        }
        self.widen(width, filter).heighten(height, filter)
    }

    /// Whether rows are made before columns: as Pillow 13 was found to choose, where many more rows than
    /// columns go. Older releases always make columns first.
    fn rows_first(&self, [height, width]: [usize; 2]) -> bool {
        let lost = |from: usize, to: usize| from as i64 - to as i64;
        let rows = lost(self.height, height);
        rows > 0 && rows > 2 * lost(self.width, width)
    }

    fn widen(&self, width: usize, filter: Filter) -> Self {
        if width == self.width {
            return self.clone();
        }
        let taps = taps(filter, self.width, width);
        let mut rgb = Vec::with_capacity(self.height * width * 3);
        for row in self.rgb.chunks_exact(self.width * 3) {
            for taps in &taps {
                rgb.extend((0..3).map(|colour| eight_bits(taps, |column| row[column * 3 + colour])));
            }
        }
        Self { width, height: self.height, rgb }
    }

    fn heighten(&self, height: usize, filter: Filter) -> Self {
        if height == self.height {
            return self.clone();
        }
        let stride = self.width * 3;
        let mut rgb = Vec::with_capacity(height * stride);
        for taps in taps(filter, self.height, height) {
            rgb.extend((0..stride).map(|at| eight_bits(&taps, |row| self.rgb[row * stride + at])));
        }
        Self { width: self.width, height, rgb }
    }

    fn nearest(&self, [height, width]: [usize; 2]) -> Self {
        let from = |index: usize, all: usize, of: usize| {
            (((index as f64 + 0.5) * (of as f64 / all as f64)) as usize).min(of - 1)
        };
        let mut rgb = Vec::with_capacity(height * width * 3);
        for row in (0..height).map(|row| from(row, height, self.height)) {
            for column in (0..width).map(|column| from(column, width, self.width)) {
                rgb.extend_from_slice(&self.rgb[(row * self.width + column) * 3..][..3]);
            }
        }
        Self { width, height, rgb }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_pixels_become_their_mean() {
        let picture = Picture { width: 2, height: 1, rgb: vec![0, 10, 255, 3, 20, 255] };
        for filter in [Filter::Box, Filter::Bilinear] {
            assert_eq!(picture.resize([1, 1], filter).rgb, [2, 15, 255]);
        }
    }

    #[test]
    fn weights_add_up_to_one() {
        for filter in [Filter::Lanczos, Filter::Bilinear, Filter::Bicubic, Filter::Box, Filter::Hamming] {
            for (from, to) in [(7, 3), (3, 7), (100, 1), (1, 5)] {
                for taps in taps(filter, from, to) {
                    let sum: i64 = taps.weights.iter().map(|weight| i64::from(*weight)).sum();
                    assert!((sum - (1 << PRECISION)).abs() <= taps.weights.len() as i64, "{filter:?} {sum}");
                }
            }
        }
    }
}
