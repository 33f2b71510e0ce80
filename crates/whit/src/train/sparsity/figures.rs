//! How many experts stay closed: for a token, and for tokens in a row.

use serde::Serialize;

/// The figures of a model, means over layers and text.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Usage {
    /// Token-level sparsity: the share of experts that is closed for a token.
    pub tls: f64,
    /// Chunk-level sparsity by the chunk's length: the share that is closed for all of its tokens.
    pub cls: Vec<(usize, f64)>,
    /// The share of a token's experts that the token before it had opened too.
    pub reuse: f64,
}

impl Usage {
    /// The chunks that the paper reports.
    pub const LENGTHS: [usize; 4] = [8, 16, 32, 64];

    /// The figures of one layer; `open` is `[tokens, experts]` of tokens in a row.
    pub fn of(open: &[bool], experts: usize) -> Self {
        let cls = Self::LENGTHS.map(|length| (length, chunk_sparsity(open, experts, length)));
        Self { tls: token_sparsity(open, experts), cls: cls.into(), reuse: reuse(open, experts) }
    }

    /// The mean of figures.
    pub fn mean(all: &[Self]) -> Self {
        let mean = |one: &dyn Fn(&Self) -> f64| all.iter().map(one).sum::<f64>() / all.len().max(1) as f64;
        let cls = Self::LENGTHS.iter().enumerate();
        Self {
            tls: mean(&|usage| usage.tls),
            cls: cls.map(|(at, &length)| (length, mean(&|usage| usage.cls[at].1))).collect(),
            reuse: mean(&|usage| usage.reuse),
        }
    }

    /// Each figure's name and share.
    pub fn rows(&self) -> Vec<(String, f64)> {
        let mut rows = vec![("experts closed for a token (TLS)".to_owned(), self.tls)];
        rows.extend(
            self.cls.iter().map(|(length, share)| (format!("closed for {length} tokens (CLS)"), *share)),
        );
        rows.push(("experts shared with the token before".to_owned(), self.reuse));
        rows
    }
}

/// The share of experts that is closed for a token; `open` is `[tokens, experts]`.
pub fn token_sparsity(open: &[bool], experts: usize) -> f64 {
    chunk_sparsity(open, experts, 1)
}

/// The share of experts that is closed for all tokens of a chunk, over the whole chunks in `open`.
pub fn chunk_sparsity(open: &[bool], experts: usize, length: usize) -> f64 {
    let mut closed = 0;
    let chunks = open.chunks_exact(experts * length);
    let count = chunks.len() * experts;
    for chunk in chunks {
        closed +=
            (0..experts).filter(|&expert| chunk.chunks_exact(experts).all(|token| !token[expert])).count();
    }
    closed as f64 / count.max(1) as f64
}

/// The share of the experts opened by a token that the token before it had opened too.
pub fn reuse(open: &[bool], experts: usize) -> f64 {
    let (mut opened, mut again) = (0, 0);
    for (before, now) in open.chunks_exact(experts).zip(open.chunks_exact(experts).skip(1)) {
        opened += now.iter().filter(|open| **open).count();
        again += now.iter().zip(before).filter(|(now, before)| **now && **before).count();
    }
    again as f64 / opened.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figure 1 of the paper: four tokens, six experts.
    fn example() -> Vec<bool> {
        let tokens: [&[usize]; 4] = [&[2, 3], &[2, 3, 6], &[3, 6], &[2, 3, 6]];
        tokens.iter().flat_map(|open| (1..=6).map(|expert| open.contains(&expert))).collect()
    }

    #[test]
    fn the_papers_example() {
        assert!((token_sparsity(&example(), 6) - 7.0 / 12.0).abs() < 1e-12);
        assert!((chunk_sparsity(&example(), 6, 4) - 3.0 / 6.0).abs() < 1e-12);
        // Of 3, 2 and 3 experts the token before had 2, 2 and 2.
        assert!((reuse(&example(), 6) - 6.0 / 8.0).abs() < 1e-12);
    }

    #[test]
    fn unfinished_chunks_do_not_count() {
        assert_eq!(chunk_sparsity(&example(), 6, 3), 0.5);
        assert_eq!(chunk_sparsity(&[], 6, 8), 0.0);
    }

    #[test]
    fn means_are_over_the_layers() {
        let [one, two] = [[true; 64], [false; 64]].map(|open| Usage::of(&open, 1));
        let mean = Usage::mean(&[one, two]);
        assert_eq!((mean.tls, mean.cls[3], mean.reuse), (0.5, (64, 0.5), 0.5));
    }
}
