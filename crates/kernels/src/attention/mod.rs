//! One attention for every model: `softmax(scale · Q Kᵀ + bias) V` with masks, windows, grouped query
//! heads and what the methods want back, in memory that grows with the length and not its square
//! (Dao et al., FlashAttention, 2022: keys in blocks, a running maximum and sum for each row).
//!
//! [`attend`] works on slices, one call for one sequence; [`attention`] is the differentiable
//! function on tensors. Both run the same blocks in the same order:
//!
//! * The query heads that share a kv head are rows of one product, so K and V are read once for all.
//! * Keys are taken in blocks of [`KEY_BLOCK`], and every [`KEY_CHUNK`] keys a new running sum begins.
//!   A row's result depends on its visible keys only, not on the other rows of the call nor on the
//!   number of threads: decoding token by token equals one causal call bit for bit.
//! * Blocks that a mask rules out for all rows are skipped.
//! * Where a view lists rows, only these are gathered, as if they were all there are: sparse attention.
//!   One view a query head gives each head a list of its own.
//!
//! # NaN and infinity
//! A masked-out key never matters, whatever K and V hold there. A key whose score is `-inf` (a bias
//! of `-inf`, say) counts as masked out. Among visible keys the arithmetic is IEEE's: a NaN in a query
//! makes its row NaN, a NaN in a visible key or value makes NaN of the rows that see it. A row without
//! visible keys gives zeros, and `-inf` as its log-sum-exp.

mod backward;
mod buffer;
mod columns;
mod forward;
mod lanes;
mod mask;
pub mod reference;
mod scores;
pub mod select;
mod tensor;
mod tile;
pub mod vertical_slash;

use crate::simd::Level;
use columns::Columns;
use forward::{Bias, Forward, Head, Job, Layout};
use mask::{Allowed, Visible};
use scores::RawScores;
use tile::{Kernels, Score};

pub use mask::BitMatrix;
pub use tensor::{Options, attention, attention_of_rows};
pub use vertical_slash::VerticalSlash;

#[cfg(test)]
mod tests;

/// Keys are visited in blocks of this many: one machine word of mask for each row.
pub const KEY_BLOCK: usize = 64;

/// Every this many keys a new running softmax begins, to be combined with the others at the end.
pub const KEY_CHUNK: usize = 1024;

/// The keys and values of one kv head.
#[derive(Clone, Copy, Debug)]
pub struct HeadView<'a> {
    /// The keys; row `j` begins at `j * stride`.
    pub keys: &'a [f32],
    /// The values; row `j` begins at `j * value_stride`.
    pub values: &'a [f32],
    /// Distance between two rows of `keys`.
    pub stride: usize,
    /// Distance between two rows of `values`.
    pub value_stride: usize,
    /// The number of rows; heads of one call may differ.
    pub len: usize,
    /// The rows that are read, where not all are: `len` numbers of rows, in the order in which masks count them.
    pub rows: Option<&'a [u32]>,
}

/// Which keys a query sees. Queries are the last `query_count` positions of the sequence unless the
/// mask says otherwise.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'a> {
    /// All keys.
    Full,
    /// Query `i` sees the first `len - query_count + i + 1` keys.
    Causal,
    /// All older keys and, of the last `query_count` keys, those set in row `i`: `[queries, queries]`.
    /// With a window, a query's depth is the number of set bits in its row.
    Tree(&'a BitMatrix),
    /// The keys set in row `i`: `[queries, keys]`. Columns that the matrix lacks are not seen.
    Allowed(&'a BitMatrix),
}

/// What [`attend`] returns besides the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The logarithm of the sum of exponentials of each row.
    pub log_sum_exp: bool,
    /// The sum of every key's probabilities over all queries.
    pub column_sums: bool,
    /// The probabilities of this many last queries (at most all of them).
    pub last_rows: usize,
    /// The scores of this many first queries (at most all of them), as they enter the softmax.
    pub scores: usize,
}

/// One attention of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// `[queries, heads, head_dim]`.
    pub queries: &'a [f32],
    /// The number of queries.
    pub query_count: usize,
    /// The number of query heads, a multiple of the number of kv heads; query head `h` uses kv head
    /// `h / (heads / kv_heads)`.
    pub heads: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// The keys and values, one view for each kv head.
    pub kv: &'a [HeadView<'a>],
    /// The factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)` (Gemma 2), before the bias.
    pub softcap: Option<f32>,
    /// Which keys a query sees.
    pub mask: Mask<'a>,
    /// Of those, only the ones less than this many positions back.
    pub window: Option<usize>,
    /// Added to the scores of every query: `[keys]`, or `[kv_heads, keys]` where heads differ. Keys
    /// are counted up to the longest head.
    pub key_bias: Option<&'a [f32]>,
    /// What to return besides the output.
    pub wanted: Wanted,
}

/// What [`attend`] returns; a part that was not wanted is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attended {
    /// `[queries, heads, head_dim]`.
    pub output: Vec<f32>,
    /// `[heads, queries]`; `-inf` where a query sees no key.
    pub log_sum_exp: Vec<f32>,
    /// `[heads, keys]`, keys up to the longest head.
    pub column_sums: Vec<f32>,
    /// `[heads, last_rows, keys]`, keys up to the longest head.
    pub last_rows: Vec<f32>,
    /// `[heads, scores, keys]`, keys up to the longest head; `-inf` where a query does not see the key.
    pub scores: Vec<f32>,
}

impl HeadView<'_> {
    /// Where row `row` of those that are read lies among all.
    pub fn row(&self, row: usize) -> usize {
        self.rows.map_or(row, |rows| rows[row] as usize)
    }

    /// One more than the last row that is read.
    fn end(&self) -> usize {
        self.rows.map_or(self.len, |rows| rows.iter().max().map_or(0, |&row| row as usize + 1))
    }
}

impl Call<'_> {
    /// The number of query heads for each kv head.
    pub fn group(&self) -> usize {
        self.heads / self.kv.len()
    }

    /// The length of the longest kv head.
    pub fn keys(&self) -> usize {
        self.kv.iter().map(|head| head.len).max().unwrap_or(0)
    }

    /// The number of queries whose probabilities are returned.
    pub fn last_rows(&self) -> usize {
        self.wanted.last_rows.min(self.query_count)
    }

    /// The number of queries whose scores are returned.
    pub fn scored(&self) -> usize {
        self.wanted.scores.min(self.query_count)
    }

    /// # Panics
    /// If the slices do not hold what the sizes say: a caller's bug, never a user's input.
    fn check(&self) {
        assert!(
            !self.kv.is_empty() && self.heads.is_multiple_of(self.kv.len()),
            "{} heads share {} kv heads",
            self.heads,
            self.kv.len()
        );
        assert_eq!(self.queries.len(), self.query_count * self.heads * self.head_dim, "queries");
        for view in self.kv {
            assert!(view.rows.is_none_or(|rows| rows.len() == view.len), "as many rows as the head has");
            let end = view.end();
            let fits = |data: &[f32], stride| end == 0 || data.len() >= (end - 1) * stride + self.head_dim;
            assert!(fits(view.keys, view.stride) && fits(view.values, view.value_stride), "keys and values");
        }
        let keys = self.keys();
        let bias_fits = |bias: &[f32]| bias.len() == keys || bias.len() == keys * self.kv.len();
        assert!(self.key_bias.is_none_or(bias_fits), "one bias for each key");
        match self.mask {
            Mask::Tree(bits) => {
                assert!(bits.rows() == self.query_count && bits.columns() == self.query_count, "tree mask")
            }
            Mask::Allowed(bits) => assert!(bits.rows() == self.query_count, "one mask row for each query"),
            Mask::Full | Mask::Causal => {}
        }
    }

    /// The bias of kv head `head`.
    fn bias_of(&self, head: usize) -> Option<&[f32]> {
        let keys = self.keys();
        self.key_bias.map(|bias| if bias.len() == keys { bias } else { &bias[head * keys..][..keys] })
    }
}

/// Computes one attention.
///
/// # Panics
/// If the slices do not hold what the sizes say, or the heads are no multiple of the kv heads.
pub fn attend(call: &Call<'_>) -> Attended {
    attend_at(call, crate::simd::level())
}

/// [`attend`] with the instructions of `level`.
fn attend_at(call: &Call<'_>, level: Level) -> Attended {
    call.check();
    let (keys, last) = (call.keys(), call.last_rows());
    let biases = call.biases();
    let mut job = call.job(&biases, level);
    let mut scores = vec![f32::NEG_INFINITY; call.heads * call.scored() * keys];
    job.raw = RawScores::new(&mut scores, call.scored(), keys);
    let packed = job.pack(call.queries, job.score.query_factor);
    let Forward { output, mut log_sum_exp } = job.forward(&packed, call.queries.len());
    let mut result = Attended { output, scores, ..Attended::default() };
    if call.wanted.log_sum_exp {
        result.log_sum_exp = call.by_head(&log_sum_exp);
    }
    if call.wanted.column_sums || last > 0 {
        result.column_sums = vec![0.0; if call.wanted.column_sums { call.heads * keys } else { 0 }];
        result.last_rows = vec![0.0; call.heads * last * keys];
        // A row that sees nothing: any finite number will do.
        log_sum_exp.iter_mut().filter(|value| **value == f32::NEG_INFINITY).for_each(|value| *value = 0.0);
        let (sums, last_rows) = (&mut result.column_sums[..], &mut result.last_rows[..]);
        Columns { job: &job, packed: &packed, log_sum_exp: &log_sum_exp, keys, sums, last_rows, last }.run();
    }
    result
}

impl Call<'_> {
    /// One bias for all kv heads, or one for each, or none.
    fn biases(&self) -> Vec<Bias> {
        let keys = self.keys().max(1);
        self.key_bias.map_or(Vec::new(), |bias| bias.chunks(keys).map(Bias::new).collect())
    }

    fn job<'a>(&'a self, biases: &'a [Bias], level: Level) -> Job<'a> {
        let group = self.group();
        let head = |(index, &view): (usize, &HeadView<'a>)| {
            let bias = biases.get(index).or(biases.first());
            let unbarred = bias.map(|bias| &bias.unbarred[..]);
            Head {
                view,
                first: index * group * self.head_dim,
                visible: self.visible(view.len, unbarred),
                bias,
            }
        };
        Job {
            heads: self.kv.iter().enumerate().map(head).collect(),
            group,
            query_count: self.query_count,
            head_dim: self.head_dim,
            score: Score::new(self.scale, self.softcap),
            layout: Layout { query: self.heads * self.head_dim, head: self.head_dim },
            kernels: Kernels::of(level),
            raw: None,
        }
    }

    fn visible<'a>(&'a self, len: usize, unbarred: Option<&'a [u64]>) -> Visible<'a> {
        let (tree, allowed) = match self.mask {
            Mask::Full | Mask::Causal => (None, None),
            Mask::Tree(bits) => (Some(bits), None),
            Mask::Allowed(bits) => (None, Some(Allowed { bits, each_row: false })),
        };
        Visible {
            len,
            queries: self.query_count,
            group: self.group(),
            causal: matches!(self.mask, Mask::Causal),
            window: self.window.unwrap_or(usize::MAX),
            allowed,
            tree,
            ends: None,
            unbarred,
        }
    }

    /// From `[kv_heads, queries, group]` to base 2 to `[heads, queries]` to base e.
    fn by_head(&self, values: &[f32]) -> Vec<f32> {
        let (group, queries) = (self.group(), self.query_count);
        let value = |place: usize| {
            let (head, query) = (place / queries, place % queries);
            values[(head / group * queries + query) * group + head % group] * std::f32::consts::LN_2
        };
        (0..values.len()).map(value).collect()
    }
}
