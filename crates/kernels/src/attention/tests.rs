//! The fast paths against the reference, every option and every level.

use proptest::prelude::*;

use super::*;
use crate::simd;

const LEVELS: [Level; 3] = [Level::Plain, Level::Avx2, Level::Avx512];

/// The inputs of a call, with the storage it borrows.
#[derive(Clone, Debug)]
struct Case {
    queries: usize,
    lengths: Vec<usize>,
    group: usize,
    head_dim: usize,
    /// Beyond the width, between two rows.
    gap: usize,
    mask: u8,
    window: Option<usize>,
    softcap: Option<f32>,
    bias: Option<bool>,
    /// Whether only some rows are read.
    listed: bool,
    seed: u64,
}

/// Numbers that look random: a linear congruential generator (Knuth's MMIX constants).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn value(&mut self) -> f32 {
        self.bits() as f32 / (1u64 << 30) as f32 - 1.0
    }

    /// Numbers of `count` rows of `of`, in any order.
    fn rows(&mut self, count: usize, of: usize) -> Vec<u32> {
        (0..count).map(|_| (self.bits() % of as u64) as u32).collect()
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| 2.0 * self.value()).collect()
    }
}

/// The storage of a [`Case`].
struct Data {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    bias: Vec<f32>,
    bits: BitMatrix,
    /// For each head, if rows are listed.
    rows: Option<Vec<Vec<u32>>>,
}

impl Case {
    fn heads(&self) -> usize {
        self.group * self.lengths.len()
    }

    fn longest(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    fn stride(&self) -> usize {
        self.head_dim * self.lengths.len() + self.gap
    }

    fn data(&self) -> Data {
        let mut random = Random(self.seed);
        let longest = self.longest();
        let mut bits = match self.mask {
            2 => BitMatrix::from_fn(self.queries, self.queries, |row, column| row == column),
            _ => BitMatrix::new(self.queries, longest),
        };
        for row in 0..self.queries {
            // A row of every seventh sees nothing in an arbitrary mask.
            let keep = if self.mask == 2 || row % 7 != 3 { 2 } else { 0 };
            for column in 0..if self.mask == 2 { row } else { longest } {
                bits.set(row, column, random.bits() % 3 < keep);
            }
        }
        Data {
            queries: random.values(self.queries * self.heads() * self.head_dim),
            keys: random.values(longest * self.stride()),
            values: random.values(longest * self.stride()),
            bias: (0..longest * if self.bias == Some(true) { self.lengths.len() } else { 1 })
                .map(|_| if random.bits().is_multiple_of(9) { f32::NEG_INFINITY } else { random.value() })
                .collect(),
            bits,
            rows: self.listed.then(|| self.lengths.iter().map(|&len| random.rows(len, longest)).collect()),
        }
    }

    /// Heads side by side in every row, as a cache lays them out.
    fn views<'a>(&self, data: &'a Data) -> Vec<HeadView<'a>> {
        let view = |(head, &len): (usize, &usize)| HeadView {
            keys: data.keys.get(head * self.head_dim..).unwrap_or(&[]),
            values: data.values.get(head * self.head_dim..).unwrap_or(&[]),
            stride: self.stride(),
            value_stride: self.stride(),
            len,
            rows: data.rows.as_ref().map(|rows| &rows[head][..]),
        };
        self.lengths.iter().enumerate().map(view).collect()
    }

    fn call<'a>(&self, data: &'a Data, kv: &'a [HeadView<'a>]) -> Call<'a> {
        Call {
            queries: &data.queries,
            query_count: self.queries,
            heads: self.heads(),
            head_dim: self.head_dim,
            kv,
            scale: (self.head_dim as f32).sqrt().recip(),
            softcap: self.softcap,
            mask: match self.mask {
                0 => Mask::Full,
                1 => Mask::Causal,
                2 => Mask::Tree(&data.bits),
                _ => Mask::Allowed(&data.bits),
            },
            window: self.window,
            key_bias: self.bias.map(|_| &data.bias[..]),
            wanted: Wanted { log_sum_exp: true, column_sums: true, last_rows: 3, scores: 2 },
        }
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1usize..90, prop::collection::vec(0usize..300, 1..4), 1usize..4, 1usize..140, 0usize..5);
    let window = prop::option::of(1usize..200);
    let softcap = prop::option::of(0.5f32..30.0);
    let options = (0u8..4, window, softcap, prop::option::of(any::<bool>()), any::<bool>(), any::<u64>());
    (sizes, options).prop_map(|(sizes, options)| {
        let (queries, mut lengths, group, head_dim, gap) = sizes;
        let (mask, window, softcap, bias, listed, seed) = options;
        if mask == 2 {
            lengths.iter_mut().for_each(|len| *len += queries);
        }
        Case { queries, lengths, group, head_dim, gap, mask, window, softcap, bias, listed, seed }
    })
}

fn levels() -> impl Iterator<Item = Level> {
    LEVELS.into_iter().filter(|level| *level <= simd::level())
}

fn assert_close(ours: &[f32], theirs: &[f32], tolerance: f32, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
        let near = a == b || (a - b).abs() <= tolerance * b.abs().max(1.0);
        assert!(near, "{what}[{index}]: {a} instead of {b}");
    }
}

fn assert_equals_reference(call: &Call<'_>) {
    let expected = reference::attend(call);
    for level in levels() {
        let result = attend_at(call, level);
        assert_close(&result.output, &expected.output, 4e-6, &format!("{level:?} output"));
        assert_close(&result.log_sum_exp, &expected.log_sum_exp, 4e-6, &format!("{level:?} log-sum-exp"));
        assert_close(&result.column_sums, &expected.column_sums, 1e-5, &format!("{level:?} column sums"));
        assert_close(&result.last_rows, &expected.last_rows, 4e-6, &format!("{level:?} last rows"));
        assert_close(&result.scores, &expected.scores, 2e-6, &format!("{level:?} scores"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_option_equals_the_reference(case in cases()) {
        let data = case.data();
        let views = case.views(&data);
        assert_equals_reference(&case.call(&data, &views));
    }
}

fn plain_case(queries: usize, len: usize, heads: usize, group: usize, head_dim: usize, mask: u8) -> Case {
    let lengths = vec![len; heads];
    let (window, softcap, bias, listed) = (None, None, None, false);
    Case { queries, lengths, group, head_dim, gap: 0, mask, window, softcap, bias, listed, seed: 5 }
}

#[test]
fn several_chunks_equal_the_reference() {
    for (queries, heads, mask) in [(1, 1, 1), (2, 1, 0), (3, 2, 1), (61, 1, 2), (50, 12, 1)] {
        let case =
            Case { window: (heads == 2).then_some(1500), ..plain_case(queries, 2333, heads, 2, 64, mask) };
        let data = case.data();
        let views = case.views(&data);
        assert_equals_reference(&case.call(&data, &views));
    }
}

/// A list of each query head's own, over many chunks, as sparse decoding reads them.
#[test]
fn listed_rows_equal_a_mask_of_them() {
    let case = plain_case(1, 5000, 2, 4, 64, 0);
    let data = case.data();
    let views = case.views(&data);
    let chosen: Vec<Vec<u32>> =
        (0..8).map(|head| (head..5000).step_by(3 + head as usize).collect()).collect();
    let each =
        |head: usize| HeadView { len: chosen[head].len(), rows: Some(&chosen[head]), ..views[head / 4] };
    let kv: Vec<_> = (0..8).map(each).collect();
    for level in levels() {
        let output = attend_at(&Call { kv: &kv, ..case.call(&data, &views) }, level).output;
        for head in 0..8 {
            let bits = BitMatrix::from_fn(1, 5000, |_, key| chosen[head].contains(&(key as u32)));
            let masked = Call { mask: Mask::Allowed(&bits), ..case.call(&data, &views) };
            let masked = reference::attend(&masked).output;
            assert_close(&output[head * 64..][..64], &masked[head * 64..][..64], 4e-6, "head");
        }
    }
}

#[test]
#[should_panic(expected = "keys and values")]
fn a_row_behind_the_last_is_refused() {
    let case = plain_case(1, 10, 1, 1, 16, 0);
    let data = case.data();
    let views = [HeadView { len: 2, rows: Some(&[3, 10]), ..case.views(&data)[0] }];
    attend(&case.call(&data, &views));
}

#[test]
fn one_query_at_a_time_equals_one_causal_call_bit_for_bit() {
    for (len, queries, heads, head_dim) in [(300, 300, 2, 64), (2100, 70, 3, 48), (130, 130, 1, 20)] {
        let case = plain_case(queries, len, heads, 2, head_dim, 1);
        let data = case.data();
        let views = case.views(&data);
        for level in levels() {
            let together = attend_at(&case.call(&data, &views), level).output;
            let size = case.heads() * head_dim;
            for query in 0..queries {
                let kv: Vec<_> =
                    views.iter().map(|view| HeadView { len: len - queries + query + 1, ..*view }).collect();
                let single = Case { queries: 1, ..case.clone() };
                let call = Call { queries: &data.queries[query * size..][..size], ..single.call(&data, &kv) };
                assert_eq!(
                    attend_at(&call, level).output,
                    together[query * size..][..size],
                    "{level:?}, query {query}"
                );
            }
        }
    }
}

#[test]
fn a_window_or_mask_that_hides_old_keys_equals_their_absence() {
    let case = Case { window: Some(100), ..plain_case(1, 500, 1, 1, 32, 1) };
    let data = case.data();
    let views = case.views(&data);
    let windowed = attend(&case.call(&data, &views)).output;
    let start = 400 * views[0].stride;
    let tail = [HeadView { keys: &data.keys[start..], values: &data.values[start..], len: 100, ..views[0] }];
    let call = Call { window: None, wanted: Wanted::default(), ..case.call(&data, &tail) };
    assert_close(&windowed, &attend(&call).output, 1e-6, "window");
}

#[test]
fn what_is_masked_out_cannot_poison() {
    for mask in [1, 2, 3] {
        let case = plain_case(40, 100, 1, 2, 24, mask);
        let clean = case.data();
        let mut dirty = case.data();
        // A tree's rows see all old keys, so spoil the last key, which only its own row sees.
        let spoiled = 99;
        let at = spoiled * case.stride();
        dirty.keys[at..][..24].fill(f32::INFINITY);
        dirty.values[at..][..24].fill(f32::NAN);
        let views = [case.views(&clean), case.views(&dirty)];
        let sees = |query: usize| match mask {
            1 => query == 39,
            2 => clean.bits.get(query, 39),
            _ => clean.bits.get(query, spoiled),
        };
        for level in levels() {
            let [good, bad] = [(&clean, &views[0]), (&dirty, &views[1])]
                .map(|(data, views)| attend_at(&case.call(data, views), level).output);
            for query in 0..40 {
                let row = query * 48..(query + 1) * 48;
                if sees(query) {
                    assert!(
                        bad[row].iter().all(|value| value.is_nan()),
                        "{level:?}, mask {mask}, query {query}"
                    );
                } else {
                    assert_close(&bad[row.clone()], &good[row], 1e-6, "untouched row");
                }
            }
        }
    }
}

#[test]
fn a_row_that_sees_nothing_is_zero() {
    let case = Case { bias: Some(false), ..plain_case(5, 2, 1, 1, 16, 1) };
    let mut data = case.data();
    data.bias = vec![0.0, f32::NEG_INFINITY];
    let views = case.views(&data);
    let result = attend(&case.call(&data, &views));
    // Five causal queries on two keys: the first three see none, the others the first key alone.
    assert!(result.output[..48].iter().all(|value| *value == 0.0));
    assert_eq!(&result.output[48..64], &data.values[..16]);
    assert_eq!(result.log_sum_exp[..3], [f32::NEG_INFINITY; 3]);
    assert_close(&result.column_sums, &[2.0, 0.0], 1e-6, "column sums");
}

#[test]
fn a_nan_in_a_query_stays_in_its_row() {
    let case = plain_case(3, 70, 1, 1, 16, 0);
    let mut data = case.data();
    data.queries[16] = f32::NAN;
    let views = case.views(&data);
    let output = attend(&case.call(&data, &views)).output;
    assert!(output[16..32].iter().all(|value| value.is_nan()));
    assert!(output[..16].iter().chain(&output[32..]).all(|value| value.is_finite()));
}

#[test]
fn large_scores_do_not_overflow() {
    let case = plain_case(4, 200, 1, 1, 16, 0);
    let mut data = case.data();
    data.queries.iter_mut().for_each(|value| *value *= 1e4);
    let views = case.views(&data);
    let expected = reference::attend(&case.call(&data, &views)).output;
    for level in levels() {
        assert_close(&attend_at(&case.call(&data, &views), level).output, &expected, 1e-3, "output");
    }
}

/// What methods of the cache build their scores on: N = 512, 4 heads, against the plain softmax.
#[test]
fn sums_over_all_and_over_the_last_queries_are_those_of_the_plain_softmax() {
    let case = Case {
        queries: 512,
        lengths: vec![512; 4],
        group: 1,
        head_dim: 64,
        gap: 0,
        mask: 1,
        window: None,
        softcap: None,
        bias: None,
        listed: false,
        seed: 9,
    };
    let data = case.data();
    let views = case.views(&data);
    let wanted = Wanted { column_sums: true, last_rows: 32, ..Wanted::default() };
    let call = Call { wanted, ..case.call(&data, &views) };
    let (found, plain) = (attend(&call), reference::attend(&call));
    let local = |rows: &[f32]| -> Vec<f32> {
        let head =
            |head: &[f32]| (0..512).map(|key| head[key..].iter().step_by(512).sum()).collect::<Vec<f32>>();
        rows.chunks_exact(32 * 512).flat_map(head).collect()
    };
    for (found, plain) in
        [(found.column_sums, plain.column_sums), (local(&found.last_rows), local(&plain.last_rows))]
    {
        assert_eq!(found.len(), 4 * 512);
        let far = found.iter().zip(&plain).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f32::max);
        assert!(far < 1e-5, "{far}");
    }
}
