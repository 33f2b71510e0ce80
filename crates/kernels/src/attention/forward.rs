//! The forward pass: blocks of rows against blocks of keys, with a running softmax.

use std::ops::Range;

use super::buffer::Buffer;
use super::mask::{Span, Visible, ones};
use super::scores::RawScores;
use super::tile::{Kernels, Product, ROW_GROUP, Score, Start, Weighing};
use super::{HeadView, KEY_BLOCK, KEY_CHUNK};
use crate::parallel::{self, Shared};
use crate::simd::prefetch;

/// Rows of one task: enough to use a packed block of keys many times.
const TASK_ROWS: usize = 8 * ROW_GROUP;

/// From this many rows on the values of a block are packed too.
const PACK_ROWS: usize = 8;

/// What a call on slices and a call on tensors have in common.
pub(super) struct Job<'a> {
    pub heads: Vec<Head<'a>>,
    /// Query heads for each kv head.
    pub group: usize,
    pub query_count: usize,
    pub head_dim: usize,
    pub score: Score,
    pub layout: Layout,
    pub kernels: &'static Kernels,
    /// Where scores go, if they are wanted.
    pub raw: Option<RawScores>,
}

/// Where the queries (and outputs) of a head lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Distance between two queries.
    pub query: usize,
    /// Distance between two query heads of a group.
    pub head: usize,
}

/// One kv head and the query heads that use it.
pub(super) struct Head<'a> {
    pub view: HeadView<'a>,
    /// Where the first query head's first query begins.
    pub first: usize,
    pub visible: Visible<'a>,
    pub bias: Option<&'a Bias>,
}

/// The bias of the keys of a head, ready for use.
pub(super) struct Bias {
    /// Times log2(e), padded to whole blocks; 0 where the key is barred.
    pub values: Vec<f32>,
    /// For each block, the keys whose bias is not `-inf`.
    pub unbarred: Vec<u64>,
}

/// Row after row for each head, padded with zeros: `[heads, rows, width]`.
pub(super) struct Packed(pub Buffer);

/// What the forward pass gives.
pub(super) struct Forward {
    /// In the layout of the queries.
    pub output: Vec<f32>,
    /// Of each row, `[heads, rows]`, to base 2.
    pub log_sum_exp: Vec<f32>,
}

/// The running softmax of a block of rows.
struct State {
    top: Vec<f32>,
    /// `[rows, 16]`, to be added up.
    sums: Buffer,
    /// `[rows, width]`, not yet divided by the sums.
    output: Buffer,
}

/// Room for one block of keys.
pub(super) struct Scratch {
    /// `[head_dim, KEY_BLOCK]`.
    pub keys: Buffer,
    /// `[KEY_BLOCK, width]`.
    pub values: Buffer,
    /// `[ROW_GROUP, KEY_BLOCK]`.
    pub scores: Buffer,
    /// Which keys each row sees.
    pub words: Vec<u64>,
}

/// A block of rows of one head.
struct Rows<'a> {
    head: &'a Head<'a>,
    index: usize,
    range: Range<usize>,
    span: Span,
}

impl Bias {
    pub fn new(values: &[f32]) -> Self {
        let bar =
            |value: f32| if value == f32::NEG_INFINITY { 0.0 } else { value * std::f32::consts::LOG2_E };
        let word = |block: &[f32]| {
            let open = block.iter().enumerate().filter(|(_, value)| **value != f32::NEG_INFINITY);
            open.fold(0, |word, (bit, _)| word | 1 << bit)
        };
        let unbarred = values.chunks(KEY_BLOCK).map(word).collect();
        let mut values: Vec<f32> = values.iter().copied().map(bar).collect();
        values.resize(values.len().next_multiple_of(KEY_BLOCK), 0.0);
        Self { values, unbarred }
    }

    /// The bias of the block from `start` on.
    pub fn block(&self, start: usize) -> &[f32] {
        &self.values[start..][..KEY_BLOCK]
    }
}

impl Head<'_> {
    /// The number of keys in the block from `start` on.
    pub fn block_len(&self, start: usize) -> usize {
        (self.view.len - start).min(KEY_BLOCK)
    }

    /// The keys of a block, transposed into `to`: `[head_dim, KEY_BLOCK]`.
    pub fn transpose_keys(&self, job: &Job<'_>, start: usize, to: &mut [f32]) {
        let (view, len) = (&self.view, self.block_len(start));
        match view.rows {
            Some(rows) => {
                let rows = &rows[start..start + len];
                job.kernels.transpose_rows(view.keys, view.stride, rows, job.head_dim, to);
            }
            None => {
                let keys = &view.keys[start * view.stride..];
                job.kernels.transpose(keys, view.stride, [len, job.head_dim], to);
            }
        }
    }

    /// Asks for the rows of the block from `start` on, if there is one.
    fn prefetch(&self, data: &[f32], stride: usize, dim: usize, start: usize) {
        for row in start..self.view.len.min(start + KEY_BLOCK) {
            prefetch(&data[self.view.row(row) * stride..][..dim]);
        }
    }

    /// The values of a block, row after row padded to whole vectors: `[KEY_BLOCK, width]`.
    fn pack_values(&self, job: &Job<'_>, start: usize, to: &mut [f32]) {
        for (row, to) in (start..start + self.block_len(start)).zip(to.chunks_exact_mut(job.width())) {
            let values = &self.view.values[self.view.row(row) * self.view.value_stride..];
            to[..job.head_dim].copy_from_slice(&values[..job.head_dim]);
        }
    }
}

impl Job<'_> {
    /// Rows of a head: queries times heads of the group, the group's heads of a query side by side.
    pub fn rows(&self) -> usize {
        self.query_count * self.group
    }

    /// The width of a row of values, padded to whole vectors.
    pub fn width(&self) -> usize {
        self.head_dim.next_multiple_of(16)
    }

    /// Where row `row` of `head` begins among the queries.
    pub fn place(&self, head: &Head<'_>, row: usize) -> usize {
        head.first + row / self.group * self.layout.query + row % self.group * self.layout.head
    }

    /// Rows of all heads out of the queries' layout, times `factor`.
    pub fn pack(&self, from: &[f32], factor: f32) -> Packed {
        let (rows, dim, width) = (self.rows(), self.head_dim, self.width());
        let mut packed = Buffer::new(self.heads.len() * rows * width);
        parallel::pieces(&mut packed, TASK_ROWS * width.max(1), |piece, to| {
            for (index, to) in to.chunks_exact_mut(width).enumerate() {
                let row = piece * TASK_ROWS + index;
                let from = &from[self.place(&self.heads[row / rows], row % rows)..][..dim];
                to.iter_mut().zip(from).for_each(|(to, from)| *to = from * factor);
            }
        });
        Packed(packed)
    }

    /// The packed rows `rows` of head `head`.
    pub fn packed<'b>(&self, packed: &'b Packed, head: usize, rows: Range<usize>) -> &'b [f32] {
        let start = head * self.rows();
        &packed.0[(start + rows.start) * self.width()..(start + rows.end) * self.width()]
    }

    pub fn scratch(&self) -> Scratch {
        Scratch {
            keys: Buffer::new(self.head_dim * KEY_BLOCK),
            values: Buffer::new(self.width() * KEY_BLOCK),
            scores: Buffer::new(ROW_GROUP * KEY_BLOCK),
            words: Vec::new(),
        }
    }

    /// Runs the forward pass.
    pub fn forward(&self, packed: &Packed, size: usize) -> Forward {
        let mut result = Forward {
            output: vec![0.0; size],
            log_sum_exp: vec![f32::NEG_INFINITY; self.heads.len() * self.rows()],
        };
        if self.head_dim == 0 || self.rows() == 0 {
            return result;
        }
        let targets = (Shared(result.output.as_mut_ptr()), Shared(result.log_sum_exp.as_mut_ptr()));
        let blocks = self.blocks();
        let longest = self.heads.iter().map(|head| head.view.len).max().unwrap_or(0);
        let chunks = longest.div_ceil(KEY_CHUNK).max(1);
        if chunks > 1 && blocks.len() < 4 * parallel::threads() {
            self.split(packed, &blocks, chunks, &targets);
        } else {
            // The last rows see most under a causal mask: begin with them.
            parallel::run(blocks.len(), |index| {
                let rows = &blocks[blocks.len() - 1 - index];
                let mut scratch = self.scratch();
                let mut total = State::new(rows.range.len(), self.width());
                for chunk in rows.chunks() {
                    total.merge(&self.chunk(packed, rows, chunk, &mut scratch), self.width());
                }
                self.finish(rows, &total, &targets);
            });
        }
        result
    }

    /// Few rows, many keys: the chunks of a row are tasks of their own, merged in the same order.
    fn split(
        &self,
        packed: &Packed,
        blocks: &[Rows<'_>],
        chunks: usize,
        targets: &(Shared<f32>, Shared<f32>),
    ) {
        let mut parts: Vec<Option<State>> = Vec::new();
        parts.resize_with(blocks.len() * chunks, || None);
        parallel::pieces(&mut parts, 1, |index, part| {
            let (rows, chunk) = (&blocks[index / chunks], index % chunks);
            if rows.chunks().contains(&chunk) {
                part[0] = Some(self.chunk(packed, rows, chunk, &mut self.scratch()));
            }
        });
        parallel::run(blocks.len(), |index| {
            let rows = &blocks[index];
            let mut total = State::new(rows.range.len(), self.width());
            let parts = parts[index * chunks..][..chunks].iter().flatten();
            parts.for_each(|part| total.merge(part, self.width()));
            self.finish(rows, &total, targets);
        });
    }

    /// All rows of all heads in blocks of a task's size.
    fn blocks(&self) -> Vec<Rows<'_>> {
        let wish = self.heads.len() * self.rows() / (8 * parallel::threads());
        let size = wish.clamp(2 * ROW_GROUP, TASK_ROWS).next_multiple_of(ROW_GROUP);
        let starts = || (0..self.rows()).step_by(size);
        let rows = |(index, start): (usize, usize)| {
            let head = &self.heads[index];
            let range = start..self.rows().min(start + size);
            Rows { head, index, span: head.visible.span(range.clone()), range }
        };
        // Heads side by side, so that the causal mask's long rows come together.
        starts().flat_map(|start| (0..self.heads.len()).map(move |index| (index, start))).map(rows).collect()
    }

    /// The softmax of `rows` over one chunk of keys.
    fn chunk(&self, packed: &Packed, rows: &Rows<'_>, chunk: usize, scratch: &mut Scratch) -> State {
        let mut state = State::new(rows.range.len(), self.width());
        let queries = self.packed(packed, rows.index, rows.range.clone());
        let end = rows.span.some.end.min((chunk + 1) * KEY_CHUNK);
        for start in (chunk * KEY_CHUNK..end).step_by(KEY_BLOCK) {
            if start + KEY_BLOCK > rows.span.some.start && rows.look(start, &mut scratch.words) {
                self.block(rows, queries, start, &mut state, scratch);
            }
        }
        state
    }

    /// Adds one block of keys to the state.
    fn block(
        &self,
        rows: &Rows<'_>,
        queries: &[f32],
        start: usize,
        state: &mut State,
        scratch: &mut Scratch,
    ) {
        let (head, width, dim) = (rows.head, self.width(), self.head_dim);
        let len = head.block_len(start);
        let few = rows.range.len() < PACK_ROWS;
        let direct = few && width == dim && head.view.rows.is_none();
        let source = if direct { &head.view.values[start * head.view.value_stride..] } else { &[] };
        if few {
            head.prefetch(head.view.values, head.view.value_stride, dim, start);
        }
        head.transpose_keys(self, start, &mut scratch.keys);
        if !direct {
            head.pack_values(self, start, &mut scratch.values);
        }
        let (values, stride) =
            if direct { (source, head.view.value_stride) } else { (&*scratch.values, width) };
        let plain = rows.partial(start, len, &scratch.words) && !finite(values, stride, [len, dim]);
        for first in (0..rows.range.len()).step_by(ROW_GROUP) {
            let count = (rows.range.len() - first).min(ROW_GROUP);
            let words = &scratch.words[first..][..count];
            if words.iter().all(|word| *word == 0) {
                continue;
            }
            self.kernels.product(Product {
                a: &queries[first * width..],
                a_row: width,
                a_step: 1,
                b: &scratch.keys,
                b_row: KEY_BLOCK,
                c: &mut scratch.scores,
                c_row: KEY_BLOCK,
                rows: count,
                depth: dim,
                columns: KEY_BLOCK,
                start: Start::Zero,
            });
            if few {
                head.prefetch(head.view.keys, head.view.stride, dim, start + KEY_BLOCK);
            }
            if let Some(raw) = &self.raw {
                raw.write(self, rows.index, rows.range.start + first, start, (words, &scratch.scores));
            }
            let mut factors = [0.0; ROW_GROUP];
            self.kernels.weigh(Weighing {
                scores: &mut scratch.scores,
                score: self.score,
                bias: head.bias.map(|bias| bias.block(start)),
                words,
                top: &mut state.top[first..],
                sums: &mut state.sums[first * 16..],
                factors: &mut factors,
            });
            let product = Product {
                a: &scratch.scores,
                a_row: KEY_BLOCK,
                a_step: 1,
                b: values,
                b_row: stride,
                c: &mut state.output[first * width..],
                c_row: width,
                rows: count,
                depth: len,
                columns: width,
                start: Start::Scaled(&factors),
            };
            if plain { skip_zeros(product, dim) } else { self.kernels.product(product) }
        }
    }

    /// Divides by the sums and writes the rows out.
    fn finish(&self, rows: &Rows<'_>, state: &State, (output, log_sum_exp): &(Shared<f32>, Shared<f32>)) {
        for (index, row) in rows.range.clone().enumerate() {
            let sum = state.sum(index);
            let scale = if sum == 0.0 { 0.0 } else { sum.recip() };
            let place = self.place(rows.head, row);
            for (channel, value) in state.output[index * self.width()..][..self.head_dim].iter().enumerate() {
                // SAFETY: every row of every head has its own place in the output, and one task.
                unsafe { *output.at(place + channel) = value * scale };
            }
            // SAFETY: likewise.
            unsafe { *log_sum_exp.at(rows.index * self.rows() + row) = state.top[index] + sum.log2() };
        }
    }
}

impl Rows<'_> {
    /// The chunks with keys that some row may see.
    fn chunks(&self) -> Range<usize> {
        self.span.some.start / KEY_CHUNK..self.span.some.end.div_ceil(KEY_CHUNK)
    }

    /// Finds the keys each row sees in the block from `start` on; whether there are any.
    fn look(&self, start: usize, words: &mut Vec<u64>) -> bool {
        look(&self.head.visible, &self.span, self.range.clone(), start, words)
    }

    /// Whether some row does not see all of the block's `len` keys.
    fn partial(&self, start: usize, len: usize, words: &[u64]) -> bool {
        let inside = start >= self.span.all.start && start + len <= self.span.all.end;
        !inside && words.iter().any(|word| *word != ones(0..len))
    }
}

/// Finds the keys each of `rows` sees in the block from `start` on; whether there are any.
pub(super) fn look(
    visible: &Visible<'_>,
    span: &Span,
    rows: Range<usize>,
    start: usize,
    words: &mut Vec<u64>,
) -> bool {
    let len = (visible.len - start).min(KEY_BLOCK);
    words.clear();
    if start >= span.all.start && start + len <= span.all.end {
        words.resize(rows.len(), ones(0..len));
        return true;
    }
    words.extend(rows.map(|row| visible.word(row, start)));
    words.iter().any(|word| *word != 0)
}

impl State {
    fn new(rows: usize, width: usize) -> Self {
        Self {
            top: vec![f32::NEG_INFINITY; rows],
            sums: Buffer::new(rows * 16),
            output: Buffer::new(rows * width),
        }
    }

    /// The sum of exponentials of a row.
    fn sum(&self, row: usize) -> f32 {
        self.sums[row * 16..][..16].iter().sum()
    }

    /// Joins the softmax over other keys to this one.
    fn merge(&mut self, part: &Self, width: usize) {
        for row in 0..self.top.len() {
            let top = if part.top[row] > self.top[row] { part.top[row] } else { self.top[row] };
            let shift = if top == f32::NEG_INFINITY { 0.0 } else { top };
            let factors = [(self.top[row] - shift).exp2(), (part.top[row] - shift).exp2()];
            self.top[row] = top;
            let join = |mine: &mut [f32], theirs: &[f32]| {
                let pairs = mine.iter_mut().zip(theirs);
                pairs.for_each(|(mine, theirs)| *mine = *mine * factors[0] + theirs * factors[1]);
            };
            join(&mut self.sums[row * 16..][..16], &part.sums[row * 16..][..16]);
            join(&mut self.output[row * width..][..width], &part.output[row * width..][..width]);
        }
    }
}

/// Copies a block of rows, padding them with zeros to whole vectors.
pub(super) fn pack_values(from: &[f32], stride: usize, [rows, dim]: [usize; 2], to: &mut [f32]) {
    let width = dim.next_multiple_of(16);
    for (index, to) in to.chunks_exact_mut(width).take(rows).enumerate() {
        to[..dim].copy_from_slice(&from[index * stride..][..dim]);
    }
}

/// Whether a block of rows holds neither infinities nor NaN.
pub(super) fn finite(values: &[f32], stride: usize, [rows, dim]: [usize; 2]) -> bool {
    (0..rows).all(|row| {
        let row = &values[row * stride..][..dim];
        // No early exit, so that it is a vector loop: 0 times x is 0 for finite x, else NaN.
        row.iter().map(|x| 0.0 * x).sum::<f32>() == 0.0
    })
}

/// A product that leaves out the zeros of `a`, for the sake of infinities in `b` behind a mask.
pub(super) fn skip_zeros(product: Product<'_>, dim: usize) {
    for row in 0..product.rows {
        let output = &mut product.c[row * product.c_row..][..dim];
        if let Start::Scaled(factors) = product.start {
            output.iter_mut().for_each(|value| *value *= factors[row]);
        }
        let weights = &product.a[row * product.a_row..][..product.depth];
        for (key, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight != 0.0) {
            let values = &product.b[key * product.b_row..][..dim];
            output.iter_mut().zip(values).for_each(|(output, value)| *output += weight * value);
        }
    }
}
