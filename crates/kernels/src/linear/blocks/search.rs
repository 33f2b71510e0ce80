//! The search for scales and minima. Rounding every weight to the nearest level of the full range
//! wastes levels on outliers; trying a few ranges and solving the least-squares problem for each
//! lowers the error by a fifth.

use half::f16;

use super::Block;

/// Runs with smaller weights than this become zero: the scale would be no normal number.
const TINY: f32 = 1e-15;

/// The ranges that are tried for a run: `(top + first + step * i)` levels for `i < count`.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    /// The highest level.
    pub top: u8,
    /// The first correction to the number of levels.
    pub first: f32,
    /// The distance of the corrections.
    pub step: f32,
    /// How many are tried.
    pub count: usize,
}

/// `1 / scale`, or 0 for a scale of 0.
#[inline(always)]
pub fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The first weight of the largest magnitude.
#[inline(always)]
pub fn signed_largest(weights: &[f32]) -> f32 {
    weights
        .iter()
        .fold(0.0f32, |largest, &weight| if weight.abs() > largest.abs() { weight } else { largest })
}

/// A block of eight runs of 32 weights, each with a scale and a minimum (`Q4_K`, `Q5_K`).
#[inline(always)]
pub fn with_minima(weights: &[f32], steps: &Steps) -> Block {
    let mut fits = [(0.0f32, 0.0f32); 8];
    for (fit, run) in fits.iter_mut().zip(weights.as_chunks::<32>().0) {
        *fit = best_line(run, steps);
    }
    let largest = fits.iter().fold((0.0f32, 0.0f32), |most, fit| (most.0.max(fit.0), most.1.max(fit.1)));
    let mut block = Block {
        scale: f16::from_f32(largest.0 / 63.0),
        min_scale: f16::from_f32(largest.1 / 63.0),
        ..Block::default()
    };
    let inverses = (inverse(largest.0) * 63.0, inverse(largest.1) * 63.0);
    for (run, fit) in fits.iter().enumerate() {
        block.scales[run] = nearest(fit.0 * inverses.0, 0.0, 63.0);
        block.mins[run] = nearest(fit.1 * inverses.1, 0.0, 63.0);
        let scale = block.scale.to_f32() * f32::from(block.scales[run]);
        let min = block.min_scale.to_f32() * f32::from(block.mins[run]);
        let inverse = inverse(scale);
        let levels = &mut block.levels[run * 32..][..32];
        for (level, weight) in levels.iter_mut().zip(&weights[run * 32..]) {
            *level = nearest((weight + min) * inverse, 0.0, f32::from(steps.top));
        }
    }
    block
}

/// A block of sixteen runs of 16 weights, each with a signed scale (`Q6_K`).
#[inline(always)]
pub fn signed_scales(weights: &[f32]) -> Block {
    let mut fits = [0.0f32; 16];
    for (fit, run) in fits.iter_mut().zip(weights.as_chunks::<16>().0) {
        *fit = best_scale(run, 32.0);
    }
    let largest = signed_largest(&fits);
    let mut block = Block { levels: [32; 256], ..Block::default() };
    if largest.abs() < TINY {
        return block;
    }
    let inverse_scale = -128.0 / largest;
    block.scale = f16::from_f32(1.0 / inverse_scale);
    for (run, fit) in fits.iter().enumerate() {
        let signed = whole(fit * inverse_scale, -128.0, 127.0) as i8;
        block.scales[run] = signed as u8;
        let inverse = inverse(block.scale.to_f32() * f32::from(signed));
        let levels = &mut block.levels[run * 16..][..16];
        for (level, weight) in levels.iter_mut().zip(&weights[run * 16..]) {
            *level = nearest(weight * inverse + 32.0, 0.0, 63.0);
        }
    }
    block
}

#[inline(always)]
fn nearest(value: f32, low: f32, high: f32) -> u8 {
    whole(value, low, high) as u8
}

/// The nearest whole number (ties to even) within bounds that are whole. Without `round`, which
/// processors before SSE 4.1 lack: the addition leaves no bits for a fraction.
#[inline(always)]
fn whole(value: f32, low: f32, high: f32) -> f32 {
    const ROUNDER: f32 = 12_582_912.0;
    value.max(low).min(high) + ROUNDER - ROUNDER
}

/// The scale and (non-negative) minimum for which `scale * level - minimum` is nearest to the
/// weights. Large weights count more: each by the run's root mean square plus its magnitude.
#[inline(always)]
fn best_line(run: &[f32; 32], steps: &Steps) -> (f32, f32) {
    let low = run.iter().fold(0.0f32, |low, &weight| low.min(weight));
    let high = run.iter().fold(f32::MIN, |high, &weight| high.max(weight));
    if high <= low || !(high - low).is_finite() {
        return (0.0, -low);
    }
    let root = (sum(&run.map(|weight| weight * weight)) / 32.0).sqrt();
    let line = Line {
        run,
        importance: run.map(|weight| root + weight.abs()),
        low,
        range: high - low,
        top: f32::from(steps.top),
    };
    let mut best = (line.range / line.top, low);
    let mut least = line.error(&line.levels(line.top), best);
    for index in 0..steps.count {
        let levels = line.levels(line.top + steps.first + steps.step * index as f32);
        let Some(fit) = line.fit(&levels) else { continue };
        let error = line.error(&levels, fit);
        if error < least {
            (best, least) = (fit, error);
        }
    }
    (best.0, -best.1)
}

/// A run of weights that [`best_line`] fits.
struct Line<'a> {
    run: &'a [f32; 32],
    importance: [f32; 32],
    low: f32,
    range: f32,
    top: f32,
}

impl Line<'_> {
    /// The levels if `count` steps make the range.
    #[inline(always)]
    fn levels(&self, count: f32) -> [f32; 32] {
        let inverse = count / self.range;
        self.run.map(|weight| whole(inverse * (weight - self.low), 0.0, self.top))
    }

    /// The least-squares scale and offset (at most 0) for given levels.
    #[inline(always)]
    fn fit(&self, levels: &[f32; 32]) -> Option<(f32, f32)> {
        let weighted = pairs(&self.importance, levels);
        let (total, level) = (sum(&self.importance), sum(&weighted));
        let squares = sum(&pairs(&weighted, levels));
        let (mixed, values) = (sum(&pairs(&weighted, self.run)), sum(&pairs(&self.importance, self.run)));
        let determinant = total * squares - level * level;
        if determinant <= 0.0 {
            return None;
        }
        let offset = (squares * values - level * mixed) / determinant;
        if offset > 0.0 {
            return Some((mixed / squares, 0.0));
        }
        Some(((total * mixed - values * level) / determinant, offset))
    }

    #[inline(always)]
    fn error(&self, levels: &[f32; 32], (scale, offset): (f32, f32)) -> f32 {
        let mut errors = [0.0; 32];
        for i in 0..32 {
            let difference = scale * levels[i] + offset - self.run[i];
            errors[i] = self.importance[i] * difference * difference;
        }
        sum(&errors)
    }
}

/// The scale for which `scale * level`, with levels from `-half` to `half - 1`, is nearest to the
/// weights, each weighted by its square.
#[inline(always)]
fn best_scale(run: &[f32; 16], half: f32) -> f32 {
    let largest = signed_largest(run);
    if largest.abs() < TINY || !largest.is_finite() {
        return 0.0;
    }
    let (mut scale, mut gain) = (0.0, 0.0);
    for index in [0].into_iter().chain(-9..0).chain(1..10) {
        let inverse = -(half + 0.1 * index as f32) / largest;
        let levels = run.map(|weight| whole(inverse * weight, -half, half - 1.0));
        let weighted = pairs(&pairs(run, run), &levels);
        let (mixed, squares) = (sum(&pairs(&weighted, run)), sum(&pairs(&weighted, &levels)));
        if squares > 0.0 && mixed * mixed > gain * squares {
            scale = mixed / squares;
            gain = scale * mixed;
        }
    }
    scale
}

#[inline(always)]
fn pairs<const N: usize>(a: &[f32; N], b: &[f32; N]) -> [f32; N] {
    std::array::from_fn(|i| a[i] * b[i])
}

/// The sum, in an order that suits vector registers.
#[inline(always)]
fn sum<const N: usize>(values: &[f32; N]) -> f32 {
    let mut lanes = [0.0f32; 8];
    for chunk in values.as_chunks::<8>().0 {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    let halves: [f32; 4] = std::array::from_fn(|i| lanes[i] + lanes[i + 4]);
    (halves[0] + halves[2]) + (halves[1] + halves[3])
}
