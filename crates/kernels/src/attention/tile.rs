//! The inner loops, each compiled for every level: products of small blocks, the softmax of a block
//! of scores, and transposing keys.

use super::KEY_BLOCK;
use super::lanes::{Lanes, Plain};
#[cfg(target_arch = "x86_64")]
use super::lanes::{Wide, Wider};
use crate::simd::Level;

/// Rows whose scores, weights and sums are worked on together: they stay in the first-level cache.
pub(super) const ROW_GROUP: usize = 24;

/// Rows of a product's tile.
const TILE_ROWS: usize = 6;

/// What a product begins with.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    /// The result is the product alone.
    Zero,
    /// The product is added.
    Sum,
    /// Row `i` of the result is multiplied by the factor `i`, then the product is added.
    Scaled(&'a [f32]),
}

/// `c[i, j] += sum over k of a[i * a_row + k * a_step] * b[k * b_row + j]`, summed in order of `k`.
pub(super) struct Product<'a> {
    pub a: &'a [f32],
    pub a_row: usize,
    pub a_step: usize,
    pub b: &'a [f32],
    pub b_row: usize,
    pub c: &'a mut [f32],
    pub c_row: usize,
    pub rows: usize,
    pub depth: usize,
    /// A multiple of 16.
    pub columns: usize,
    pub start: Start<'a>,
}

impl Product<'_> {
    fn check(&self) {
        if self.rows * self.columns == 0 {
            return;
        }
        assert!(
            self.columns.is_multiple_of(16) && self.c.len() >= (self.rows - 1) * self.c_row + self.columns
        );
        if self.depth > 0 {
            assert!(self.a.len() > (self.rows - 1) * self.a_row + (self.depth - 1) * self.a_step);
            assert!(self.b.len() >= (self.depth - 1) * self.b_row + self.columns);
        }
        if let Start::Scaled(factors) = self.start {
            assert!(factors.len() >= self.rows);
        }
    }
}

/// How a product of query and key becomes the exponent of 2.
#[derive(Clone, Copy, Debug)]
pub(super) struct Score {
    /// What the queries are multiplied by beforehand.
    pub query_factor: f32,
    /// Times the hyperbolic tangent, where scores are capped.
    pub cap: Option<f32>,
}

impl Score {
    /// Exponents of 2 instead of e: the factor goes into the scale.
    pub fn new(scale: f32, softcap: Option<f32>) -> Self {
        let log2_e = std::f32::consts::LOG2_E;
        match softcap {
            Some(cap) => Self { query_factor: scale / cap, cap: Some(cap * log2_e) },
            None => Self { query_factor: scale * log2_e, cap: None },
        }
    }

    /// The final score of a vector of products at `column` of a block.
    ///
    /// # Safety
    /// As [`Lanes`]; `bias` holds a block.
    #[inline(always)]
    unsafe fn of<L: Lanes>(self, product: L, bias: Option<&[f32]>, column: usize) -> L {
        // SAFETY: the caller's promise.
        unsafe {
            let capped = self.cap.map_or(product, |cap| product.tanh().mul(L::splat(cap)));
            bias.map_or(capped, |bias| capped.add(L::load(bias.as_ptr().add(column))))
        }
    }
}

/// A block of scores `[rows, KEY_BLOCK]` that becomes weights, with each row's running maximum and sum.
pub(super) struct Weighing<'a> {
    pub scores: &'a mut [f32],
    pub score: Score,
    /// Of the block's keys, times log2(e).
    pub bias: Option<&'a [f32]>,
    /// The keys each row sees.
    pub words: &'a [u64],
    /// Running maximum of each row.
    pub top: &'a mut [f32],
    /// Running sum of each row, one vector of 16 apiece.
    pub sums: &'a mut [f32],
    /// Out: what the row's earlier sums must be multiplied by.
    pub factors: &'a mut [f32],
}

/// A block of scores `[rows, KEY_BLOCK]` that becomes probabilities, given each row's log-sum-exp.
pub(super) struct Probabilities<'a> {
    pub scores: &'a mut [f32],
    pub score: Score,
    pub bias: Option<&'a [f32]>,
    pub words: &'a [u64],
    /// To base 2; anything finite for a row that sees nothing.
    pub log_sum_exp: &'a [f32],
}

/// The derivative of a block: `scores` becomes probabilities and `gradients`, that of the
/// probabilities, becomes that of the products of query and key (but for the scale).
pub(super) struct Derivative<'a> {
    pub probabilities: Probabilities<'a>,
    /// `[rows, KEY_BLOCK]`.
    pub gradients: &'a mut [f32],
    /// Of each row, the sum of output times its gradient.
    pub dots: &'a [f32],
    /// Where a bias wants its gradient: added to, one for each key of the block.
    pub bias_gradient: Option<&'a mut [f32]>,
}

/// The loops for one level.
pub(super) struct Kernels {
    product: unsafe fn(&mut Product<'_>),
    weigh: unsafe fn(&mut Weighing<'_>),
    probabilities: unsafe fn(&mut Probabilities<'_>),
    derivative: unsafe fn(&mut Derivative<'_>),
    transpose: unsafe fn(&[f32], usize, [usize; 2], &mut [f32]),
    transpose_rows: unsafe fn(&[f32], usize, &[u32], usize, &mut [f32]),
}

impl Kernels {
    /// The loops for `level`, which the processor must have.
    pub fn of(level: Level) -> &'static Self {
        assert!(level <= crate::simd::level(), "this processor lacks {level:?}");
        #[cfg(target_arch = "x86_64")]
        match level {
            Level::Avx512 => return &avx512::KERNELS,
            Level::Avx2 => return &avx2::KERNELS,
            Level::Plain => {}
        }
        &plain::KERNELS
    }

    /// Computes a product.
    pub fn product(&self, mut product: Product<'_>) {
        product.check();
        // SAFETY: `of` found the instructions; the sizes are checked.
        unsafe { (self.product)(&mut product) }
    }

    /// Turns scores into weights.
    pub fn weigh(&self, mut weighing: Weighing<'_>) {
        let rows = weighing.words.len();
        assert!(weighing.scores.len() >= rows * KEY_BLOCK && weighing.sums.len() >= rows * 16);
        assert!(weighing.top.len() >= rows && weighing.factors.len() >= rows);
        assert!(weighing.bias.is_none_or(|bias| bias.len() >= KEY_BLOCK));
        // SAFETY: as above.
        unsafe { (self.weigh)(&mut weighing) }
    }

    /// Turns scores into probabilities.
    pub fn probabilities(&self, mut block: Probabilities<'_>) {
        block.check();
        // SAFETY: as above.
        unsafe { (self.probabilities)(&mut block) }
    }

    /// Turns scores into probabilities, and the probabilities' gradients into the scores'.
    pub fn derivative(&self, mut block: Derivative<'_>) {
        block.probabilities.check();
        let rows = block.probabilities.words.len();
        assert!(block.gradients.len() >= rows * KEY_BLOCK && block.dots.len() >= rows);
        assert!(block.bias_gradient.as_ref().is_none_or(|bias| bias.len() >= KEY_BLOCK));
        // SAFETY: as above.
        unsafe { (self.derivative)(&mut block) }
    }

    /// `to[j, i] = from[i * stride + j]` for `i < rows <= KEY_BLOCK`, rows of `to` being `KEY_BLOCK` long;
    /// zeros for the rows that are missing.
    pub fn transpose(&self, from: &[f32], stride: usize, [rows, width]: [usize; 2], to: &mut [f32]) {
        assert!(rows <= KEY_BLOCK && to.len() >= width * KEY_BLOCK);
        assert!(rows == 0 || from.len() >= (rows - 1) * stride + width);
        // SAFETY: as above.
        unsafe { (self.transpose)(from, stride, [rows, width], to) }
    }

    /// [`Self::transpose`] of the rows `rows`, at most `KEY_BLOCK`, wherever they lie.
    pub fn transpose_rows(&self, from: &[f32], stride: usize, rows: &[u32], width: usize, to: &mut [f32]) {
        assert!(rows.len() <= KEY_BLOCK && to.len() >= width * KEY_BLOCK);
        assert!(rows.iter().all(|&row| from.len() >= row as usize * stride + width));
        // SAFETY: as above.
        unsafe { (self.transpose_rows)(from, stride, rows, width, to) }
    }
}

impl Probabilities<'_> {
    fn check(&self) {
        let rows = self.words.len();
        assert!(self.scores.len() >= rows * KEY_BLOCK && self.log_sum_exp.len() >= rows);
        assert!(self.bias.is_none_or(|bias| bias.len() >= KEY_BLOCK));
    }
}

/// One module for each level: the generic loops inside functions that turn the instructions on.
macro_rules! level {
    ($name:ident, $lanes:ty$(, #[$attribute:meta])?) => {
        mod $name {
            use super::*;

            pub(super) const KERNELS: Kernels =
                Kernels { product, weigh, probabilities, derivative, transpose, transpose_rows };

            $(#[$attribute])?
            unsafe fn product(product: &mut Product<'_>) {
                // SAFETY: the caller's promise; likewise below.
                unsafe { super::product::<$lanes>(product) }
            }

            $(#[$attribute])?
            unsafe fn weigh(weighing: &mut Weighing<'_>) {
                // SAFETY: as above.
                unsafe { super::weigh::<$lanes>(weighing) }
            }

            $(#[$attribute])?
            unsafe fn probabilities(block: &mut Probabilities<'_>) {
                // SAFETY: as above.
                unsafe { super::probabilities::<$lanes>(block) }
            }

            $(#[$attribute])?
            unsafe fn derivative(block: &mut Derivative<'_>) {
                // SAFETY: as above.
                unsafe { super::derivative::<$lanes>(block) }
            }

            $(#[$attribute])?
            unsafe fn transpose(from: &[f32], stride: usize, size: [usize; 2], to: &mut [f32]) {
                // SAFETY: as above.
                unsafe { super::transpose::<$lanes>(from, |row| row * stride, size, to) }
            }

            $(#[$attribute])?
            unsafe fn transpose_rows(
                from: &[f32],
                stride: usize,
                rows: &[u32],
                width: usize,
                to: &mut [f32],
            ) {
                let place = |row: usize| rows[row] as usize * stride;
                // SAFETY: as above.
                unsafe { super::transpose::<$lanes>(from, place, [rows.len(), width], to) }
            }
        }
    };
}

level!(plain, Plain);
#[cfg(target_arch = "x86_64")]
level!(avx2, Wide, #[target_feature(enable = "avx2,fma")]);
#[cfg(target_arch = "x86_64")]
level!(avx512, Wider, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]);

/// # Safety
/// As [`Lanes`], and `product` is checked; likewise for the functions below.
#[inline(always)]
unsafe fn product<L: Lanes>(product: &mut Product<'_>) {
    let mut column = 0;
    while column < product.columns {
        let vectors = ((product.columns - column) / L::WIDTH).min(L::COLUMNS);
        // SAFETY: the columns are within the product.
        unsafe {
            match vectors {
                1 => panel::<L, 1>(product, column),
                2 => panel::<L, 2>(product, column),
                3 => panel::<L, 3>(product, column),
                _ => panel::<L, 4>(product, column),
            }
        }
        column += vectors * L::WIDTH;
    }
}

/// All rows of `C` vectors of columns.
#[inline(always)]
unsafe fn panel<L: Lanes, const C: usize>(product: &mut Product<'_>, column: usize) {
    let mut row = 0;
    while row < product.rows {
        let rows = (product.rows - row).min(TILE_ROWS);
        // SAFETY: the rows are within the product.
        unsafe {
            match rows {
                1 => tile::<L, 1, C>(product, row, column),
                2 => tile::<L, 2, C>(product, row, column),
                3 => tile::<L, 3, C>(product, row, column),
                4 => tile::<L, 4, C>(product, row, column),
                5 => tile::<L, 5, C>(product, row, column),
                _ => tile::<L, 6, C>(product, row, column),
            }
        }
        row += rows;
    }
}

#[allow(clippy::needless_range_loop, reason = "rows and vectors index the product and the registers alike")]
#[inline(always)]
unsafe fn tile<L: Lanes, const R: usize, const C: usize>(p: &mut Product<'_>, row: usize, column: usize) {
    // SAFETY: the caller keeps `row + R` and `column + C` vectors within the checked product.
    unsafe {
        let a = p.a.as_ptr().add(row * p.a_row);
        let b = p.b.as_ptr().add(column);
        let c = p.c.as_mut_ptr().add(row * p.c_row + column);
        let mut sums = [[L::splat(0.0); C]; R];
        if !matches!(p.start, Start::Zero) {
            for r in 0..R {
                for (v, sum) in sums[r].iter_mut().enumerate() {
                    *sum = L::load(c.add(r * p.c_row + v * L::WIDTH));
                }
            }
        }
        if let Start::Scaled(factors) = p.start {
            for r in 0..R {
                let factor = L::splat(factors[row + r]);
                sums[r] = sums[r].map(|sum| sum.mul(factor));
            }
        }
        for k in 0..p.depth {
            let b: [L; C] = std::array::from_fn(|v| L::load(b.add(k * p.b_row + v * L::WIDTH)));
            for r in 0..R {
                let a = L::splat(*a.add(r * p.a_row + k * p.a_step));
                for v in 0..C {
                    sums[r][v] = a.mul_add(b[v], sums[r][v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..C {
                sums[r][v].store(c.add(r * p.c_row + v * L::WIDTH));
            }
        }
    }
}

#[inline(always)]
unsafe fn weigh<L: Lanes>(w: &mut Weighing<'_>) {
    for row in 0..w.words.len() {
        // SAFETY: the sizes are checked for all rows.
        unsafe { weigh_row::<L>(w, row) }
    }
}

/// One row: final scores and their maximum, then weights and their sum.
#[inline(always)]
unsafe fn weigh_row<L: Lanes>(w: &mut Weighing<'_>, row: usize) {
    // SAFETY: as for `weigh`.
    unsafe {
        let scores = w.scores.as_mut_ptr().add(row * KEY_BLOCK);
        let hidden = L::splat(f32::NEG_INFINITY);
        let mut largest = hidden;
        for column in (0..KEY_BLOCK).step_by(L::WIDTH) {
            let score = w.score.of(L::load(scores.add(column)), w.bias, column);
            let score = score.choose(w.words[row] >> column, hidden);
            score.store(scores.add(column));
            largest = largest.max(score);
        }
        let (before, now) = (w.top[row], largest.largest());
        let top = if now > before { now } else { before };
        // Nothing seen yet: any finite shift keeps the weights zero.
        let shift = if top == f32::NEG_INFINITY { 0.0 } else { top };
        let factor = if now > before { L::splat(before - shift).exp2() } else { L::splat(1.0) };
        let mut sum = L::splat(0.0);
        for column in (0..KEY_BLOCK).step_by(L::WIDTH) {
            let weight = L::load(scores.add(column)).sub(L::splat(shift)).exp2();
            weight.store(scores.add(column));
            sum = sum.add(weight);
        }
        let sums = w.sums.as_mut_ptr().add(row * 16);
        L::load(sums).mul_add(factor, sum).store(sums);
        w.top[row] = top;
        let mut first = [0.0; 16];
        factor.store(first.as_mut_ptr());
        w.factors[row] = first[0];
    }
}

#[inline(always)]
unsafe fn probabilities<L: Lanes>(block: &mut Probabilities<'_>) {
    for row in 0..block.words.len() {
        for column in (0..KEY_BLOCK).step_by(L::WIDTH) {
            // SAFETY: the sizes are checked for all rows.
            unsafe {
                let place = block.scores.as_mut_ptr().add(row * KEY_BLOCK + column);
                let score = block.score.of(L::load(place), block.bias, column);
                probability(block, score, row, column).store(place);
            }
        }
    }
}

/// `2^(score - log_sum_exp)` where the row sees the key, else 0.
#[inline(always)]
unsafe fn probability<L: Lanes>(block: &Probabilities<'_>, score: L, row: usize, column: usize) -> L {
    // SAFETY: the sizes are checked.
    unsafe {
        let power = score.sub(L::splat(block.log_sum_exp[row])).exp2();
        power.choose(block.words[row] >> column, L::splat(0.0))
    }
}

#[inline(always)]
unsafe fn derivative<L: Lanes>(d: &mut Derivative<'_>) {
    for row in 0..d.probabilities.words.len() {
        for column in (0..KEY_BLOCK).step_by(L::WIDTH) {
            // SAFETY: the sizes are checked for all rows.
            unsafe { derivative_at::<L>(d, row, column) }
        }
    }
}

/// `dS = P (dP - D)`, and through the cap `1 - tanh²`.
#[inline(always)]
unsafe fn derivative_at<L: Lanes>(d: &mut Derivative<'_>, row: usize, column: usize) {
    // SAFETY: as for `derivative`.
    unsafe {
        let block = &mut d.probabilities;
        let place = row * KEY_BLOCK + column;
        let product = L::load(block.scores.as_ptr().add(place));
        let probability = probability(block, block.score.of(product, block.bias, column), row, column);
        probability.store(block.scores.as_mut_ptr().add(place));
        let gradient = d.gradients.as_mut_ptr().add(place);
        let mut result = probability.mul(L::load(gradient).sub(L::splat(d.dots[row])));
        result = result.choose(block.words[row] >> column, L::splat(0.0));
        if let Some(bias) = &mut d.bias_gradient {
            let place = bias.as_mut_ptr().add(column);
            L::load(place).add(result).store(place);
        }
        if block.score.cap.is_some() {
            let tanh = product.tanh();
            result = result.mul(L::splat(1.0).sub(tanh.mul(tanh)));
            result = result.choose(block.words[row] >> column, L::splat(0.0));
        }
        result.store(gradient);
    }
}

/// Squares of vectors; what is left over at the edges goes one by one. Row `i` begins at `place(i)`.
#[inline(always)]
unsafe fn transpose<L: Lanes>(
    from: &[f32],
    place: impl Fn(usize) -> usize,
    [rows, width]: [usize; 2],
    to: &mut [f32],
) {
    let whole = |size: usize| size / L::WIDTH * L::WIDTH;
    for i in (0..whole(rows)).step_by(L::WIDTH) {
        for j in (0..whole(width)).step_by(L::WIDTH) {
            // SAFETY: the square lies within both, whose sizes are checked.
            unsafe {
                let row = |index: usize| from.as_ptr().add(place(i + index) + j);
                L::transpose(row, to.as_mut_ptr().add(j * KEY_BLOCK + i), KEY_BLOCK);
            }
        }
    }
    for j in 0..width {
        let done = if j < whole(width) { whole(rows) } else { 0 };
        let column = &mut to[j * KEY_BLOCK..][..KEY_BLOCK];
        (done..rows).for_each(|i| column[i] = from[place(i) + j]);
        column[rows..].fill(0.0);
    }
}
