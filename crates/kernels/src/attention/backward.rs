//! The backward pass: scores are computed again block by block from the log-sum-exp of each row
//! (FlashAttention, algorithm 4), so that it too needs no matrix.
//!
//! With `P = softmax(S)`, `dP = dO Vᵀ` and `D = rowsum(dO ∘ O)`: `dS = P ∘ (dP - D)`, `dV = Pᵀ dO`,
//! `dQ = scale · dS K`, `dK = scale · dSᵀ Q`.

use std::ops::Range;

use super::KEY_BLOCK;
use super::buffer::Buffer;
use super::forward::{Head, Job, Packed, finite, look, pack_values, skip_zeros};
use super::mask::ones;
use super::tile::{Derivative, Probabilities, Product, Start};
use crate::parallel::{self, Shared};

/// Rows of a block of scores: twice the forward pass's, because they are also the depth of products.
const BLOCK_ROWS: usize = 48;

/// What the backward pass is given.
pub(super) struct Input<'a> {
    pub job: &'a Job<'a>,
    /// Queries, output and its gradient in the job's layout.
    pub queries: &'a [f32],
    pub output: &'a [f32],
    pub gradient: &'a [f32],
    /// `[heads, rows]`, to base 2.
    pub log_sum_exp: &'a [f32],
    pub scale: f32,
    pub bias_wanted: bool,
}

/// The gradients of the inputs.
pub(super) struct Gradients {
    /// In the job's layout.
    pub queries: Vec<f32>,
    /// `[heads, keys, head_dim]`.
    pub keys: Vec<f32>,
    /// `[heads, keys, head_dim]`.
    pub values: Vec<f32>,
    /// `[heads, keys]`; empty if not wanted.
    pub bias: Vec<f32>,
}

/// What all tasks share.
struct Pass<'a> {
    job: &'a Job<'a>,
    packed: Packed,
    gradient: Packed,
    /// `[heads, rows]`: the sum of output times gradient.
    dots: Vec<f32>,
    log_sum_exp: Vec<f32>,
    /// From the packed queries' factor to the scale of `dK`.
    key_factor: f32,
    /// `[heads, keys, head_dim]`, and `[heads, keys]` if wanted.
    keys: Shared<f32>,
    values: Shared<f32>,
    bias: Option<Shared<f32>>,
}

/// Room for one block of keys.
struct Block {
    /// `[head_dim, KEY_BLOCK]`.
    keys_transposed: Buffer,
    values_transposed: Buffer,
    /// `[KEY_BLOCK, width]`.
    keys: Buffer,
    keys_gradient: Buffer,
    values_gradient: Buffer,
    /// `[BLOCK_ROWS, KEY_BLOCK]`: scores, then probabilities; and their gradients.
    scores: Buffer,
    gradients: Buffer,
    bias: Vec<f32>,
    words: Vec<u64>,
    /// Whether the keys are free of infinities and NaN.
    finite: bool,
}

impl Input<'_> {
    /// Runs the backward pass.
    pub fn run(&self) -> Gradients {
        let job = self.job;
        let size = job.heads.iter().map(|head| head.view.len * job.head_dim).sum();
        let longest = job.heads.iter().map(|head| head.view.len).max().unwrap_or(0);
        let mut result = Gradients {
            queries: vec![0.0; self.queries.len()],
            keys: vec![0.0; size],
            values: vec![0.0; size],
            bias: vec![0.0; if self.bias_wanted { job.heads.len() * longest } else { 0 }],
        };
        if result.queries.is_empty() || result.keys.is_empty() {
            return result;
        }
        let pass = self.pass(&mut result);
        let blocks = longest.div_ceil(KEY_BLOCK);
        let parts = (2 * parallel::threads()).div_ceil(job.heads.len()).min(blocks);
        let share = blocks.div_ceil(parts) * KEY_BLOCK;
        let mut partial: Vec<Option<Buffer>> = vec![None; job.heads.len() * parts];
        parallel::pieces(&mut partial, 1, |index, queries| {
            let (head, start) = (index / parts, index % parts * share);
            queries[0] = Some(pass.head(head, start..longest.min(start + share)));
        });
        self.write_queries(&partial, parts, &mut result.queries);
        result
    }

    fn pass(&self, result: &mut Gradients) -> Pass<'_> {
        let job = self.job;
        let gradient = job.pack(self.gradient, 1.0);
        let rows = job.rows();
        let dot = |row: usize| {
            let output = &self.output[job.place(&job.heads[row / rows], row % rows)..][..job.head_dim];
            output.iter().zip(&gradient.0[row * job.width()..]).map(|(a, b)| a * b).sum()
        };
        Pass {
            job,
            packed: job.pack(self.queries, job.score.query_factor),
            dots: (0..job.heads.len() * rows).map(dot).collect(),
            gradient,
            // A row that sees nothing: any finite number will do.
            log_sum_exp: self
                .log_sum_exp
                .iter()
                .map(|x| if *x == f32::NEG_INFINITY { 0.0 } else { *x })
                .collect(),
            key_factor: if self.scale == 0.0 { 0.0 } else { self.scale / job.score.query_factor },
            keys: Shared(result.keys.as_mut_ptr()),
            values: Shared(result.values.as_mut_ptr()),
            bias: self.bias_wanted.then_some(Shared(result.bias.as_mut_ptr())),
        }
    }

    /// Adds up what the parts of each head found, into the queries' layout.
    fn write_queries(&self, partial: &[Option<Buffer>], parts: usize, to: &mut [f32]) {
        let (job, width) = (self.job, self.job.width());
        for (head, parts) in job.heads.iter().zip(partial.chunks(parts)) {
            for row in 0..job.rows() {
                let to = &mut to[job.place(head, row)..][..job.head_dim];
                for part in parts.iter().flatten() {
                    let from = &part[row * width..];
                    to.iter_mut().zip(from).for_each(|(to, from)| *to += self.scale * from);
                }
            }
        }
    }
}

impl Pass<'_> {
    /// The keys `keys` of a head: writes their gradients and returns their share of the queries',
    /// `[rows, width]`.
    fn head(&self, index: usize, keys: Range<usize>) -> Buffer {
        let head = &self.job.heads[index];
        let mut queries = Buffer::new(self.job.rows() * self.job.width());
        let mut block = Block::new(self.job);
        for start in keys.step_by(KEY_BLOCK) {
            block.load(self.job, head, start);
            for first in (0..self.job.rows()).step_by(BLOCK_ROWS) {
                let rows = first..self.job.rows().min(first + BLOCK_ROWS);
                let span = head.visible.span(rows.clone());
                if look(&head.visible, &span, rows.clone(), start, &mut block.words) {
                    self.rows(index, start, rows, &mut block, &mut queries);
                }
            }
            self.write(index, start, &block);
        }
        queries
    }

    /// One block of rows against one block of keys.
    fn rows(&self, index: usize, start: usize, rows: Range<usize>, block: &mut Block, queries: &mut [f32]) {
        let (job, head, width) = (self.job, &self.job.heads[index], self.job.width());
        let len = head.block_len(start);
        let [packed, gradient] =
            [&self.packed, &self.gradient].map(|all| job.packed(all, index, rows.clone()));
        for (a, b, c) in [
            (packed, &block.keys_transposed, &mut block.scores),
            (gradient, &block.values_transposed, &mut block.gradients),
        ] {
            let (count, depth) = (rows.len(), job.head_dim);
            job.kernels.product(Product {
                a,
                a_row: width,
                a_step: 1,
                b,
                b_row: KEY_BLOCK,
                c,
                c_row: KEY_BLOCK,
                rows: count,
                depth,
                columns: KEY_BLOCK,
                start: Start::Zero,
            });
        }
        let place = index * job.rows() + rows.start;
        job.kernels.derivative(Derivative {
            probabilities: Probabilities {
                scores: &mut block.scores,
                score: job.score,
                bias: head.bias.map(|bias| bias.block(start)),
                words: &block.words,
                log_sum_exp: &self.log_sum_exp[place..],
            },
            gradients: &mut block.gradients,
            dots: &self.dots[place..],
            bias_gradient: self.bias.is_some().then_some(&mut block.bias[..]),
        });
        // dV += Pᵀ dO and dK += dSᵀ Q.
        for (a, b, c) in [
            (&block.scores, gradient, &mut block.values_gradient),
            (&block.gradients, packed, &mut block.keys_gradient),
        ] {
            job.kernels.product(Product {
                a,
                a_row: 1,
                a_step: KEY_BLOCK,
                b,
                b_row: width,
                c,
                c_row: width,
                rows: len,
                depth: rows.len(),
                columns: width,
                start: Start::Sum,
            });
        }
        // dQ += dS K.
        let product = Product {
            a: &block.gradients,
            a_row: KEY_BLOCK,
            a_step: 1,
            b: &block.keys,
            b_row: width,
            c: &mut queries[rows.start * width..],
            c_row: width,
            rows: rows.len(),
            depth: len,
            columns: width,
            start: Start::Sum,
        };
        let partial = || block.words.iter().any(|word| *word != ones(0..len));
        if !block.finite && partial() {
            skip_zeros(product, job.head_dim)
        } else {
            job.kernels.product(product)
        }
    }

    /// Writes the gradients of a block of keys.
    fn write(&self, index: usize, start: usize, block: &Block) {
        let head = &self.job.heads[index];
        let (dim, width) = (self.job.head_dim, self.job.width());
        let first = index * head.view.len + start;
        for key in 0..head.block_len(start) {
            for channel in 0..dim {
                let (from, to) = (key * width + channel, (first + key) * dim + channel);
                // SAFETY: every key of every head has its own place and one task; heads are equally long.
                unsafe {
                    *self.keys.at(to) = block.keys_gradient[from] * self.key_factor;
                    *self.values.at(to) = block.values_gradient[from];
                }
            }
            if let Some(bias) = &self.bias {
                // SAFETY: likewise.
                unsafe { *bias.at(first + key) = block.bias[key] };
            }
        }
    }
}

impl Block {
    fn new(job: &Job<'_>) -> Self {
        let [transposed, rows, scores] =
            [job.head_dim * KEY_BLOCK, job.width() * KEY_BLOCK, BLOCK_ROWS * KEY_BLOCK];
        Self {
            keys_transposed: Buffer::new(transposed),
            values_transposed: Buffer::new(transposed),
            keys: Buffer::new(rows),
            keys_gradient: Buffer::new(rows),
            values_gradient: Buffer::new(rows),
            scores: Buffer::new(scores),
            gradients: Buffer::new(scores),
            bias: vec![0.0; KEY_BLOCK],
            words: Vec::new(),
            finite: true,
        }
    }

    /// Takes the keys and values from `start` on, with no gradient yet.
    fn load(&mut self, job: &Job<'_>, head: &Head<'_>, start: usize) {
        let (view, size) = (&head.view, [head.block_len(start), job.head_dim]);
        let (keys, values) = (&view.keys[start * view.stride..], &view.values[start * view.value_stride..]);
        job.kernels.transpose(keys, view.stride, size, &mut self.keys_transposed);
        job.kernels.transpose(values, view.value_stride, size, &mut self.values_transposed);
        pack_values(keys, view.stride, size, &mut self.keys);
        self.finite = finite(keys, view.stride, size);
        self.keys_gradient.fill(0.0);
        self.values_gradient.fill(0.0);
        self.bias.fill(0.0);
    }
}
