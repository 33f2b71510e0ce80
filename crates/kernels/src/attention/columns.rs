//! The second pass: with each row's log-sum-exp known, the probabilities of any block follow from its
//! scores, so that their sums over the queries need no matrix.

use std::ops::Range;

use super::KEY_BLOCK;
use super::forward::{Head, Job, Packed, Scratch, look};
use super::mask::Span;
use super::tile::{Probabilities, Product, ROW_GROUP, Start};
use crate::parallel::{self, Shared};

/// What the second pass is asked for and where it goes.
pub(super) struct Columns<'a> {
    pub job: &'a Job<'a>,
    pub packed: &'a Packed,
    /// `[heads, rows]`, to base 2.
    pub log_sum_exp: &'a [f32],
    /// The length of a row of both results.
    pub keys: usize,
    /// `[query heads, keys]` or empty.
    pub sums: &'a mut [f32],
    /// `[query heads, last, keys]`.
    pub last_rows: &'a mut [f32],
    pub last: usize,
}

/// The results as the tasks see them: every task has its own keys.
struct Targets {
    sums: Option<Shared<f32>>,
    last_rows: Shared<f32>,
}

impl Columns<'_> {
    /// Fills the results.
    pub fn run(self) {
        let blocks = self.keys.div_ceil(KEY_BLOCK);
        let targets = Targets {
            sums: (!self.sums.is_empty()).then_some(Shared(self.sums.as_mut_ptr())),
            last_rows: Shared(self.last_rows.as_mut_ptr()),
        };
        let job = self.job;
        let first = if targets.sums.is_some() { 0 } else { (job.query_count - self.last) * job.group };
        parallel::run(job.heads.len() * blocks, |index| {
            let (index, start) = (index / blocks, index % blocks * KEY_BLOCK);
            if start < job.heads[index].view.len {
                self.block(index, start, first..job.rows(), &targets);
            }
        });
    }

    /// One block of keys of one head, against `rows`.
    fn block(&self, index: usize, start: usize, rows: Range<usize>, targets: &Targets) {
        let head = &self.job.heads[index];
        let mut scratch = self.job.scratch();
        head.transpose_keys(self.job, start, &mut scratch.keys);
        let mut sums = vec![0.0; self.job.group * KEY_BLOCK];
        for first in rows.clone().step_by(ROW_GROUP) {
            let rows = first..rows.end.min(first + ROW_GROUP);
            let span: Span = head.visible.span(rows.clone());
            if look(&head.visible, &span, rows.clone(), start, &mut scratch.words) {
                self.probabilities(head, index, rows.clone(), start, &mut scratch);
                self.collect(index, rows, start, (&scratch.scores, &mut sums), targets);
            }
        }
        if let Some(target) = &targets.sums {
            for (member, sums) in sums.chunks_exact(KEY_BLOCK).enumerate() {
                let place = (index * self.job.group + member) * self.keys + start;
                write(target, place, &sums[..head.block_len(start)]);
            }
        }
    }

    /// Leaves the probabilities of `rows` in the scratch's scores.
    fn probabilities(
        &self,
        head: &Head<'_>,
        index: usize,
        rows: Range<usize>,
        start: usize,
        scratch: &mut Scratch,
    ) {
        let job = self.job;
        job.kernels.product(Product {
            a: job.packed(self.packed, index, rows.clone()),
            a_row: job.width(),
            a_step: 1,
            b: &scratch.keys,
            b_row: KEY_BLOCK,
            c: &mut scratch.scores,
            c_row: KEY_BLOCK,
            rows: rows.len(),
            depth: job.head_dim,
            columns: KEY_BLOCK,
            start: Start::Zero,
        });
        job.kernels.probabilities(Probabilities {
            scores: &mut scratch.scores,
            score: job.score,
            bias: head.bias.map(|bias| bias.block(start)),
            words: &scratch.words,
            log_sum_exp: &self.log_sum_exp[index * job.rows() + rows.start..],
        });
    }

    fn collect(
        &self,
        index: usize,
        rows: Range<usize>,
        start: usize,
        (block, sums): (&[f32], &mut [f32]),
        targets: &Targets,
    ) {
        let (group, queries) = (self.job.group, self.job.query_count);
        let len = self.job.heads[index].block_len(start);
        for (row, probabilities) in rows.zip(block.chunks_exact(KEY_BLOCK)) {
            let (query, member) = (row / group, row % group);
            let sums = &mut sums[member * KEY_BLOCK..][..KEY_BLOCK];
            sums.iter_mut().zip(probabilities).for_each(|(sum, p)| *sum += p);
            if query + self.last >= queries {
                let place = (index * group + member) * self.last + query + self.last - queries;
                write(&targets.last_rows, place * self.keys + start, &probabilities[..len]);
            }
        }
    }
}

fn write(target: &Shared<f32>, place: usize, values: &[f32]) {
    for (index, value) in values.iter().enumerate() {
        // SAFETY: a head's keys from `start` on belong to one task, and `place` counts within the result.
        unsafe { *target.at(place + index) = *value };
    }
}
