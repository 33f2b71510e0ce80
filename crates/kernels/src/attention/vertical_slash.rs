//! Causal attention over few of the keys: a band of the latest ones, and for each kv head some columns
//! that every later query sees (the vertical-slash pattern of MInference, Jiang et al., 2024). The
//! columns are gathered into whole blocks, so what is left out costs nothing: the band is one
//! windowed pass, the columns another, and the two softmaxes are joined by their log-sum-exps.

use super::forward::{Forward, Head, Job};
use super::mask::{BitMatrix, Visible};
use super::{Call, HeadView, Mask};
use crate::parallel;
use crate::simd::Level;

/// Which keys causal queries see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerticalSlash {
    band: usize,
    columns: Vec<Vec<usize>>,
}

impl VerticalSlash {
    /// A query sees the latest `band` keys, itself included, and of the older ones those in `columns`, one
    /// list for each kv head in any order.
    ///
    /// # Panics
    /// If the band is empty.
    pub fn new(band: usize, mut columns: Vec<Vec<usize>>) -> Self {
        assert!(band > 0, "a query sees itself");
        for columns in &mut columns {
            columns.sort_unstable();
            columns.dedup();
        }
        Self { band, columns }
    }

    /// Whether the query at position `query` sees `key` in kv head `head`.
    pub fn sees(&self, head: usize, query: usize, key: usize) -> bool {
        key <= query && (query - key < self.band || self.columns[head].binary_search(&key).is_ok())
    }

    /// How many pairs of query and key there are in kv head `head` for each of its query heads, for all
    /// `len` positions.
    pub fn pairs(&self, head: usize, len: usize) -> usize {
        let near = (1..=len).map(|seen| seen.min(self.band)).sum::<usize>();
        let later = |column: &usize| len.saturating_sub(column + self.band);
        near + self.columns[head].iter().map(later).sum::<usize>()
    }

    /// The mask of one kv head for the last `queries` of `len` positions: `[queries, len]`.
    pub fn mask(&self, head: usize, queries: usize, len: usize) -> BitMatrix {
        let first = len - queries;
        BitMatrix::from_fn(queries, len, |query, key| self.sees(head, first + query, key))
    }
}

/// Computes causal attention of `call` where `pattern` lets it look: `[queries, heads, head_dim]`.
///
/// # Panics
/// If the call is not plainly causal, or the pattern has other heads or more keys than the call.
pub fn attend(call: &Call<'_>, pattern: &VerticalSlash) -> Vec<f32> {
    attend_at(call, pattern, crate::simd::level())
}

pub(super) fn attend_at(call: &Call<'_>, pattern: &VerticalSlash, level: Level) -> Vec<f32> {
    check(call, pattern);
    let near = Call { window: Some(pattern.band), ..*call };
    let job = near.job(&[], level);
    let packed = job.pack(call.queries, job.score.query_factor);
    let mut result = job.forward(&packed, call.queries.len());
    let gathered: Vec<Gathered> = (0..call.kv.len()).map(|head| gather(call, pattern, head)).collect();
    let heads = job.heads.iter().zip(&gathered).map(|(head, gathered)| gathered.head(head)).collect();
    let far = Job { heads, ..job };
    let columns = far.forward(&packed, call.queries.len());
    join(call, &mut result, &columns);
    result.output
}

fn check(call: &Call<'_>, pattern: &VerticalSlash) {
    call.check();
    assert!(matches!(call.mask, Mask::Causal), "vertical-slash attention is causal");
    assert!(call.window.is_none() && call.key_bias.is_none(), "neither window nor bias");
    assert!(call.kv.iter().all(|view| view.rows.is_none()), "views of all rows");
    assert_eq!(pattern.columns.len(), call.kv.len(), "columns for each kv head");
    for (columns, view) in pattern.columns.iter().zip(call.kv) {
        assert!(columns.last().is_none_or(|last| *last < view.len), "columns are keys");
    }
}

/// The columns of one head, side by side.
struct Gathered {
    /// `[columns, head_dim]`.
    keys: Vec<f32>,
    values: Vec<f32>,
    len: usize,
    dim: usize,
    /// For each query, how many of the columns lie before its band.
    ends: Vec<usize>,
}

fn gather(call: &Call<'_>, pattern: &VerticalSlash, head: usize) -> Gathered {
    let (view, columns) = (&call.kv[head], &pattern.columns[head]);
    let rows = |from: &[f32], stride: usize| {
        columns.iter().flat_map(|column| &from[column * stride..][..call.head_dim]).copied().collect()
    };
    let end = |query: usize| {
        let seen = (view.len + query + 1).saturating_sub(call.query_count);
        columns.partition_point(|column| column + pattern.band < seen)
    };
    Gathered {
        keys: rows(view.keys, view.stride),
        values: rows(view.values, view.value_stride),
        len: columns.len(),
        dim: call.head_dim,
        ends: (0..call.query_count).map(end).collect(),
    }
}

impl Gathered {
    /// The columns in the place of the keys of `head`.
    fn head<'a>(&'a self, head: &Head<'a>) -> Head<'a> {
        let (keys, values, len) = (&self.keys[..], &self.values[..], self.len);
        let view = HeadView { keys, values, stride: self.dim, value_stride: self.dim, len, rows: None };
        let visible = Visible { len, window: usize::MAX, ends: Some(&self.ends), ..head.visible.clone() };
        Head { view, first: head.first, visible, bias: None }
    }
}

/// Joins the softmax over the columns to that over the band.
fn join(call: &Call<'_>, near: &mut Forward, far: &Forward) {
    let (dim, group) = (call.head_dim, call.group());
    let rows = call.query_count * group;
    let sums = &near.log_sum_exp;
    parallel::pieces(&mut near.output, (call.heads * dim).max(1), |query, output| {
        for (head, output) in output.chunks_exact_mut(dim).enumerate() {
            let row = head / group * rows + query * group + head % group;
            let [near, other] = [sums[row], far.log_sum_exp[row]];
            if other == f32::NEG_INFINITY {
                continue;
            }
            // The share of the columns in the whole sum.
            let share = (1.0 + (near - other).exp2()).recip();
            let columns = &far.output[(query * call.heads + head) * dim..][..dim];
            output.iter_mut().zip(columns).for_each(|(output, column)| *output += share * (column - *output));
        }
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Wanted, attend as dense, reference};
    use super::*;
    use crate::simd;
    use crate::testing::{assert_near, noise};

    const LEVELS: [Level; 3] = [Level::Plain, Level::Avx2, Level::Avx512];

    /// The numbers of a call with two kv heads.
    struct Case {
        queries: usize,
        len: usize,
        group: usize,
        head_dim: usize,
        data: [Vec<f32>; 3],
    }

    impl Case {
        fn new(queries: usize, len: usize, group: usize, head_dim: usize) -> Self {
            let sizes = [queries * 2 * group, 2 * len, 2 * len];
            let data = [0, 1, 2].map(|seed| noise(sizes[seed] * head_dim, seed as u64, 1.5));
            Self { queries, len, group, head_dim, data }
        }

        fn views(&self) -> [HeadView<'_>; 2] {
            let (dim, len) = (self.head_dim, self.len);
            let [_, keys, values] = &self.data;
            let [keys, values] = [keys, values].map(|data| move |head: usize| &data[head * dim..]);
            [0, 1].map(|head| HeadView {
                keys: keys(head),
                values: values(head),
                stride: 2 * dim,
                value_stride: 2 * dim,
                len,
                rows: None,
            })
        }

        fn call<'a>(&'a self, kv: &'a [HeadView<'a>]) -> Call<'a> {
            Call {
                queries: &self.data[0],
                query_count: self.queries,
                heads: 2 * self.group,
                head_dim: self.head_dim,
                kv,
                scale: (self.head_dim as f32).sqrt().recip(),
                softcap: None,
                mask: Mask::Causal,
                window: None,
                key_bias: None,
                wanted: Wanted::default(),
            }
        }

        /// The output of one kv head alone, by masked attention over all keys.
        fn masked(&self, pattern: &VerticalSlash, head: usize, slowly: bool) -> Vec<f32> {
            let (dim, size) = (self.head_dim, self.group * self.head_dim);
            let rows = self.data[0].chunks_exact(2 * size);
            let queries: Vec<f32> = rows.flat_map(|row| &row[head * size..][..size]).copied().collect();
            let view = [self.views()[head]];
            let bits = pattern.mask(head, self.queries, self.len);
            let call = Call { queries: &queries, mask: Mask::Allowed(&bits), ..self.call(&view) };
            let call = Call { heads: size / dim, ..call };
            if slowly { reference::attend(&call).output } else { dense(&call).output }
        }

        fn assert_masked(&self, pattern: &VerticalSlash, level: Level, slowly: bool) {
            let views = self.views();
            let ours = attend_at(&self.call(&views), pattern, level);
            let size = self.group * self.head_dim;
            for head in 0..2 {
                let wanted = self.masked(pattern, head, slowly);
                let wanted: Vec<f64> = wanted.into_iter().map(f64::from).collect();
                let rows = ours.chunks_exact(2 * size).flat_map(|row| &row[head * size..][..size]);
                assert_near(&rows.copied().collect::<Vec<_>>(), &wanted, 1e-5, 1.0);
            }
        }
    }

    fn levels() -> impl Iterator<Item = Level> {
        LEVELS.into_iter().filter(|level| *level <= simd::level())
    }

    /// Every `step`th key, another offset for each head.
    fn every(step: usize, len: usize) -> Vec<Vec<usize>> {
        (0..2).map(|head| (head..len).step_by(step).collect()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn any_pattern_equals_the_masked_reference(
            queries in 1usize..80,
            older in 0usize..200,
            sizes in (1usize..4, 1usize..70, 1usize..150),
            columns in prop::array::uniform2(prop::collection::vec(any::<prop::sample::Index>(), 0..90)),
        ) {
            let (group, head_dim, band) = sizes;
            let case = Case::new(queries, queries + older, group, head_dim);
            let columns = columns.map(|columns| columns.iter().map(|at| at.index(case.len)).collect());
            let pattern = VerticalSlash::new(band, columns.to_vec());
            for level in levels() {
                case.assert_masked(&pattern, level, true);
            }
        }
    }

    #[test]
    fn long_prompts_equal_masked_dense_attention() {
        for len in [4096, 4097, 4171] {
            let case = Case::new(len, len, 1, 16);
            let pattern = VerticalSlash::new(2048, every(3, len / 2));
            case.assert_masked(&pattern, simd::level(), false);
        }
    }

    #[test]
    fn a_band_over_everything_is_causal_attention_bit_for_bit() {
        let case = Case::new(100, 300, 2, 24);
        let views = case.views();
        let call = case.call(&views);
        let all = attend(&call, &VerticalSlash::new(300, every(7, 300)));
        assert_eq!(all, dense(&call).output);
    }

    #[test]
    fn columns_are_counted_once() {
        // Queries 0..6 with a band of two; column 1 is older than the band for queries 3, 4 and 5.
        let pattern = VerticalSlash::new(2, vec![vec![1, 1]]);
        assert_eq!(pattern.pairs(0, 6), 1 + 5 * 2 + 3);
        let seen = (0..6).map(|query| (0..6).filter(|&key| pattern.sees(0, query, key)).count());
        assert_eq!(seen.collect::<Vec<_>>(), [1, 2, 2, 3, 3, 3]);
    }

    #[test]
    fn a_value_that_nobody_sees_cannot_poison() {
        let mut case = Case::new(50, 200, 2, 16);
        let pattern = VerticalSlash::new(20, vec![vec![5], vec![7]]);
        let views = case.views();
        let clean = attend(&case.call(&views), &pattern);
        case.data[2][100 * 32..101 * 32].fill(f32::NAN);
        let views = case.views();
        assert_eq!(attend(&case.call(&views), &pattern), clean);
    }
}
