//! What the layers of a white-box transformer do: the coding rate of the tokens against each layer's subspaces, which
//! its attention lowers, and the share of values that its sparse coding leaves (Yu et al., 2023, arXiv 2306.01129).

use std::fmt::Write;

use burn::tensor::Tensor;
use serde::Serialize;
use whit_kernels::op;

use super::sheet;
use crate::nn::attention::{Attend, Batched, Site};
use crate::nn::vision::Vision;

/// The square of the distance within which a token counts as coded.
const PRECISION: f64 = 0.01;

/// What was found of one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LayerRate {
    /// The layer, from 1.
    pub layer: usize,
    /// The coding rate of the tokens in the layer's subspaces, in nats, the mean over the images.
    pub rate: f64,
    /// The share of values behind the layer that are not zero.
    pub non_zero: f64,
}

/// What was found of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CodingRates {
    /// Images.
    pub images: usize,
    /// Layer by layer.
    pub layers: Vec<LayerRate>,
    /// The mean rate of the last third of the layers as a share of the first layer's.
    pub rate_left: f64,
    /// The same of the share of values that are not zero.
    pub non_zero_left: f64,
}

impl CodingRates {
    /// Of batches of images.
    pub fn of(model: &Vision, batches: impl IntoIterator<Item = Tensor<4>>) -> Self {
        let layers = model.config().layers;
        let mut probe =
            Probe { inner: Batched::whole(1, None), rates: vec![0.0; layers], shares: vec![0.0; layers] };
        let mut images = 0;
        for pixels in batches {
            probe.inner.batch = pixels.dims()[0];
            images += probe.inner.batch;
            model.forward(pixels, &mut probe);
        }
        let mean = |sum: &f64| sum / images.max(1) as f64;
        let layer = |(index, (rate, share)): (usize, (&f64, &f64))| LayerRate {
            layer: index + 1,
            rate: mean(rate),
            non_zero: mean(share),
        };
        Self::new(images, probe.rates.iter().zip(&probe.shares).enumerate().map(layer).collect())
    }

    fn new(images: usize, layers: Vec<LayerRate>) -> Self {
        let left = |value: fn(&LayerRate) -> f64| {
            let last = &layers[layers.len() - layers.len().div_ceil(3)..];
            let first = layers.first().map_or(1.0, value);
            last.iter().map(value).sum::<f64>() / last.len().max(1) as f64 / first
        };
        Self { images, rate_left: left(|one| one.rate), non_zero_left: left(|one| one.non_zero), layers }
    }

    /// A page with both over the layers.
    pub fn page(&self, title: &str) -> String {
        let rate = plot("coding rate, nats", &self.layers, |one| one.rate);
        let share = plot("values that are not zero, %", &self.layers, |one| 100.0 * one.non_zero);
        sheet::page(title, "", &(sheet::heading(title) + &rate + &share))
    }
}

/// Attention that measures what it is given.
struct Probe {
    inner: Batched,
    /// Sums over the images.
    rates: Vec<f64>,
    shares: Vec<f64>,
}

impl Attend for Probe {
    fn attend(&mut self, site: &Site, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<2> {
        let projected = op::host(queries.clone());
        let image = projected.data().len() / self.inner.batch;
        let rate = |rows: &[f32]| coding_rate(rows, site.heads, site.head_dim);
        self.rates[site.layer] += projected.data().chunks_exact(image).map(rate).sum::<f64>();
        self.inner.attend(site, queries, keys, values)
    }

    fn observe(&mut self, layer: usize, hidden: &mut dyn FnMut() -> Tensor<2>) {
        let Some(behind) = layer.checked_sub(1) else { return };
        let hidden = op::host(hidden());
        let left = hidden.data().iter().filter(|value| **value != 0.0).count();
        self.shares[behind] += (left * self.inner.batch) as f64 / hidden.data().len() as f64;
    }
}

/// `1/2 sum over heads of log det(I + d_h / (n eps^2) X^T X)` of tokens `[n, heads, d_h]`, each of a head's rows `X`
/// brought to length 1: by the identity of determinants the same as with `X X^T`, which is `n` by `n`.
pub fn coding_rate(tokens: &[f32], heads: usize, head_dim: usize) -> f64 {
    let count = tokens.len() / (heads * head_dim).max(1);
    let factor = head_dim as f64 / (count as f64 * PRECISION);
    let of_head = |head: usize| {
        let mut gram = vec![0.0; head_dim * head_dim];
        for token in tokens.chunks_exact(heads * head_dim) {
            add_outer(&mut gram, &token[head * head_dim..(head + 1) * head_dim], factor);
        }
        (0..head_dim).for_each(|at| gram[at * head_dim + at] += 1.0);
        log_determinant(gram, head_dim)
    };
    (0..heads).map(of_head).sum::<f64>() / 2.0
}

/// Adds `factor x x^T / |x|^2`.
fn add_outer(gram: &mut [f64], row: &[f32], factor: f64) {
    let square: f64 = row.iter().map(|&value| f64::from(value).powi(2)).sum();
    if square == 0.0 {
        return;
    }
    for (line, &left) in gram.chunks_exact_mut(row.len()).zip(row) {
        let left = f64::from(left) * factor / square;
        line.iter_mut().zip(row).for_each(|(sum, &right)| *sum += left * f64::from(right));
    }
}

/// The logarithm of the determinant of a positive definite matrix, by its Cholesky factor.
fn log_determinant(mut matrix: Vec<f64>, size: usize) -> f64 {
    let mut sum = 0.0;
    for k in 0..size {
        let pivot = matrix[k * size + k];
        sum += pivot.ln();
        for row in k + 1..size {
            let share = matrix[row * size + k] / pivot;
            for column in k + 1..size {
                matrix[row * size + column] -= share * matrix[k * size + column];
            }
        }
    }
    sum
}

const WIDE: f64 = 420.0;
const HIGH: f64 = 260.0;

fn plot(name: &str, layers: &[LayerRate], value: fn(&LayerRate) -> f64) -> String {
    let top = layers.iter().map(value).fold(1e-9, f64::max);
    let step = (WIDE - 80.0) / layers.len().saturating_sub(1).max(1) as f64;
    let place = |one: &LayerRate| {
        (50.0 + (one.layer - 1) as f64 * step, HIGH - 30.0 - value(one) / top * (HIGH - 70.0))
    };
    let base = HIGH - 30.0;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDE} {HIGH}\" role=img aria-label=\"{name} by layer\">\
         <path class=axis d=\"M50 20V{base}H{WIDE}\"/><text x=50 y=14>{name}</text>\
         <text x=4 y=44>{top:.1}</text><text x=4 y={base}>0</text>"
    );
    let points: Vec<String> = layers.iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = write!(svg, "<polyline class=first points=\"{}\"/>", points.join(" "));
    for one in layers {
        let (x, y) = place(one);
        let _ = write!(
            svg,
            "<text x={x:.1} y={:.1} class=middle>{:.1}</text><text x={x:.1} y={} class=middle>{}</text>",
            y - 6.0,
            value(one),
            HIGH - 12.0,
            one.layer
        );
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn random(count: usize) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        (0..count).map(|_| random.random_range(-1.0..1.0f32)).collect()
    }

    /// The form of the paper: `n` by `n`, a product of rows of length 1 for each pair of tokens.
    fn by_tokens(tokens: &[f32], heads: usize, head_dim: usize) -> f64 {
        let count = tokens.len() / (heads * head_dim);
        let row = |head: usize, token: usize| {
            let row = &tokens[(token * heads + head) * head_dim..][..head_dim];
            let length = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            row.iter().map(|&x| f64::from(x) / length).collect::<Vec<_>>()
        };
        let of_head = |head: usize| {
            let rows: Vec<_> = (0..count).map(|token| row(head, token)).collect();
            let factor = head_dim as f64 / (count as f64 * PRECISION);
            let product = |a: usize, b: usize| rows[a].iter().zip(&rows[b]).map(|(a, b)| a * b).sum::<f64>();
            let entry = |at: usize| {
                let (a, b) = (at / count, at % count);
                factor * product(a, b) + f64::from(u8::from(a == b))
            };
            log_determinant((0..count * count).map(entry).collect(), count)
        };
        (0..heads).map(of_head).sum::<f64>() / 2.0
    }

    #[test]
    fn both_forms_of_the_determinant_agree() {
        for (tokens, heads, head_dim) in [(17, 4, 8), (5, 2, 16), (65, 3, 32)] {
            let values = random(tokens * heads * head_dim);
            let (ours, theirs) = (coding_rate(&values, heads, head_dim), by_tokens(&values, heads, head_dim));
            assert!((ours - theirs).abs() < 1e-4 * theirs, "{ours} {theirs}");
        }
    }

    /// All tokens on one line: one direction holds everything. A token of nothing counts nothing.
    #[test]
    fn tokens_on_a_line_cost_one_direction() {
        let line: Vec<f32> = (1..=10).flat_map(|at| [at as f32, 0.0, 0.0, 0.0]).collect();
        let one = (1.0f64 + 4.0 / 0.01).ln() / 2.0;
        assert!((coding_rate(&line, 1, 4) - one).abs() < 1e-9);
        assert_eq!(coding_rate(&[0.0; 40], 1, 4), 0.0);
        let spread: Vec<f32> =
            (0..12).flat_map(|at| (0..4).map(move |axis| f32::from(at % 4 == axis))).collect();
        assert!(coding_rate(&spread, 1, 4) > 2.0 * one, "spread tokens cost more");
    }

    #[test]
    fn the_last_third_is_compared_with_the_first_layer() {
        let layer =
            |layer: usize| LayerRate { layer, rate: 10.0 - layer as f64, non_zero: 1.0 / layer as f64 };
        let found = CodingRates::new(7, (1..=6).map(layer).collect());
        assert!((found.rate_left - (5.0 + 4.0) / 2.0 / 9.0).abs() < 1e-12);
        assert!((found.non_zero_left - (1.0 / 5.0 + 1.0 / 6.0) / 2.0).abs() < 1e-12);
        let page = found.page("a < b");
        assert!(page.contains("a &lt; b") && page.matches("<polyline").count() == 2 && !page.contains("NaN"));
    }
}
