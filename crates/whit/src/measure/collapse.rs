//! How alike the embeddings of texts are, by length, and how much attention damps what makes them differ.

use serde::Serialize;

/// What was found of texts of one length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Collapse {
    /// Tokens of a text.
    pub tokens: usize,
    /// Texts.
    pub texts: usize,
    /// The mean cosine of two of them.
    pub cosine: f64,
    /// How often a part of a text is nearest to its own text, of all texts of this length.
    pub recall: f64,
}

impl Collapse {
    /// Of texts and a part of each, as embeddings of any length.
    pub fn of(tokens: usize, texts: &[Vec<f32>], parts: &[Vec<f32>]) -> Self {
        let (whole, parts) = (directions(texts), directions(parts));
        let nearest = |part: &Vec<f64>| {
            let cosines: Vec<f64> = whole.iter().map(|text| dot(text, part)).collect();
            (0..cosines.len()).max_by(|&a, &b| cosines[a].total_cmp(&cosines[b]))
        };
        let found = parts.iter().enumerate().filter(|(at, part)| nearest(part) == Some(*at)).count();
        Self {
            tokens,
            texts: texts.len(),
            cosine: mean_cosine(&whole),
            recall: found as f64 / parts.len().max(1) as f64,
        }
    }
}

/// The mean cosine of all pairs of directions: `(|sum u|² - n) / (n (n - 1))`.
fn mean_cosine(directions: &[Vec<f64>]) -> f64 {
    let count = directions.len() as f64;
    let Some(first) = directions.first() else { return 0.0 };
    let mut sum = vec![0.0; first.len()];
    directions.iter().for_each(|one| sum.iter_mut().zip(one).for_each(|(sum, value)| *sum += value));
    if count < 2.0 { 0.0 } else { (dot(&sum, &sum) - count) / (count * (count - 1.0)) }
}

fn directions(rows: &[Vec<f32>]) -> Vec<Vec<f64>> {
    let direction = |row: &Vec<f32>| {
        let row: Vec<f64> = row.iter().map(|&value| f64::from(value)).collect();
        let norm = dot(&row, &row).sqrt().max(1e-12);
        row.into_iter().map(|value| value / norm).collect()
    };
    rows.iter().map(direction).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// How much of what is not the mean of the tokens is left, at most, behind one attention with these probabilities
/// `[tokens, tokens]`: the spectral norm of (I - 11ᵀ/n) A (I - 11ᵀ/n), by power iteration. Below 1 attention is a
/// low-pass filter.
pub fn filter_rate(attention: &[f32], tokens: usize) -> f64 {
    let mut x: Vec<f64> = (0..tokens).map(|at| ((at * at + 1) as f64).sin()).collect();
    let mut rate = 0.0;
    for _ in 0..200 {
        let norm = dot(&x, &x).sqrt().max(1e-300);
        x.iter_mut().for_each(|value| *value /= norm);
        let y = centred(&product(attention, &centred(&x), false));
        let before = std::mem::replace(&mut rate, dot(&y, &y).sqrt());
        x = centred(&product(attention, &y, true));
        if (rate - before).abs() < 1e-9 * rate {
            break;
        }
    }
    rate
}

/// A x or Aᵀ x.
fn product(matrix: &[f32], x: &[f64], transposed: bool) -> Vec<f64> {
    let mut y = vec![0.0; x.len()];
    for (at, row) in matrix.chunks_exact(x.len()).enumerate() {
        for (other, &value) in row.iter().enumerate() {
            let (to, from) = if transposed { (other, at) } else { (at, other) };
            y[to] += f64::from(value) * x[from];
        }
    }
    y
}

fn centred(x: &[f64]) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len().max(1) as f64;
    x.iter().map(|value| value - mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use whit_kernels::softmax::softmax_rows;

    #[test]
    fn the_mean_cosine_is_that_of_all_pairs() {
        let texts = vec![vec![2.0, 0.0], vec![0.0, 3.0], vec![1.0, 1.0]];
        let found = Collapse::of(9, &texts, &texts);
        let wanted = (0.0 + 0.5f64.sqrt() + 0.5f64.sqrt()) / 3.0;
        assert!((found.cosine - wanted).abs() < 1e-6);
        assert_eq!((found.recall, found.texts, found.tokens), (1.0, 3, 9));
        let swapped = vec![texts[1].clone(), texts[0].clone(), texts[2].clone()];
        assert!((Collapse::of(9, &texts, &swapped).recall - 1.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn the_filter_of_known_attention_is_known() {
        // The mean of all tokens leaves nothing; each token looking at itself leaves all.
        assert!(filter_rate(&[0.25; 16], 4) < 1e-9);
        let own: Vec<f32> = (0..16).map(|at| f32::from(at / 4 == at % 4)).collect();
        assert!((filter_rate(&own, 4) - 1.0).abs() < 1e-6);
    }

    /// Attention of random queries and keys of 64 values.
    fn rate(tokens: usize, temperature: f32, seed: u64) -> f64 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut normal = || -> f32 { (0..12).map(|_| random.random_range(-0.5..0.5f32)).sum() };
        let [queries, keys] = [(); 2].map(|()| (0..tokens * 64).map(|_| normal()).collect::<Vec<f32>>());
        let score = |query: &[f32], key: &[f32]| query.iter().zip(key).map(|(a, b)| a * b).sum::<f32>();
        let scores: Vec<f32> = queries
            .chunks_exact(64)
            .flat_map(|query| keys.chunks_exact(64).map(move |key| score(query, key) / 8.0 / temperature))
            .collect();
        let mut shares = vec![0.0; scores.len()];
        softmax_rows(&scores, tokens, &mut shares);
        filter_rate(&shares, tokens)
    }

    /// Longer texts are damped more, lower temperatures damp less, and bring lengths nearer to each other.
    #[test]
    fn attention_damps_long_texts_more_and_less_at_a_lower_temperature() {
        let draws = 20;
        let mut laws = [0; 3];
        for seed in 0..draws {
            let [[short, long], [cold_short, cold_long]] =
                [1.0, 0.5].map(|tau| [32, 128].map(|tokens| rate(tokens, tau, seed)));
            laws[0] += u32::from(long < short);
            laws[1] += u32::from(cold_short > short && cold_long > long);
            laws[2] += u32::from((cold_short / cold_long - 1.0).abs() < (short / long - 1.0).abs());
        }
        assert!(laws.iter().all(|&held| f64::from(held) >= 0.95 * draws as f64), "{laws:?} of {draws}");
    }
}
