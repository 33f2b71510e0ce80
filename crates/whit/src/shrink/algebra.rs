//! Linear algebra in `f64` on dense row-major matrices: triangular systems, least squares and singular values.
//! The triangular factors are those of [`cholesky`](super::cholesky).

use whit_kernels::parallel;

use super::cholesky::dot;

/// Solves `L L^T x = b` for the rows of `rows` `[count, n]`, each a `b`, in place.
pub fn solve_rows(lower: &[f64], n: usize, rows: &mut [f64]) {
    parallel::pieces(rows, n, |_, x| {
        for i in 0..n {
            x[i] = (x[i] - dot(&lower[i * n..][..i], &x[..i])) / lower[i * n + i];
        }
        solve_transposed(lower, n, x);
    });
}

/// Solves `L^T x = b` in place, `L` lower triangular.
fn solve_transposed(lower: &[f64], n: usize, x: &mut [f64]) {
    for i in (0..n).rev() {
        x[i] /= lower[i * n + i];
        let value = x[i];
        x[..i].iter_mut().zip(&lower[i * n..]).for_each(|(x, l)| *x -= value * l);
    }
}

/// `rows . L^-1` for rows `[count, n]`, in place: each row solves `x L = b`, that is `L^T x^T = b^T`.
pub fn divide_rows(lower: &[f64], n: usize, rows: &mut [f64]) {
    parallel::pieces(rows, n, |_, row| solve_transposed(lower, n, row));
}

/// `a . b` of `[rows, depth]` and `[depth, columns]`.
pub fn product(a: &[f64], b: &[f64], depth: usize, columns: usize) -> Vec<f64> {
    let mut out = vec![0.0; a.len() / depth.max(1) * columns];
    parallel::pieces(&mut out, columns.max(1), |row, out| {
        for (factor, line) in a[row * depth..][..depth].iter().zip(b.chunks_exact(columns)) {
            if *factor != 0.0 {
                out.iter_mut().zip(line).for_each(|(out, value)| *out += factor * value);
            }
        }
    });
    out
}

/// The transpose of `[rows, columns]`.
pub fn transpose(a: &[f64], columns: usize) -> Vec<f64> {
    let rows = a.len() / columns.max(1);
    (0..a.len()).map(|at| a[at % rows * columns + at / rows]).collect()
}

/// `A = U diag(s) V^T`, singular values descending.
#[derive(Clone, Debug)]
pub struct Svd {
    /// The left singular vectors, as rows. `[rank, rows]`
    pub left: Vec<f64>,
    /// The singular values.
    pub values: Vec<f64>,
    /// The right singular vectors, as rows. `[rank, columns]`
    pub right: Vec<f64>,
}

/// The singular values and vectors of `a` `[rows, columns]` by one-sided Jacobi rotations (Hestenes): pairs
/// of rows are turned until all are orthogonal; their lengths are then the singular values. Accurate,
/// and `O(n^3)` a sweep: seconds at widths of hundreds, many minutes at thousands.
pub fn svd(a: &[f64], rows: usize, columns: usize) -> Svd {
    if rows > columns {
        let Svd { left, values, right } = svd(&transpose(a, columns), columns, rows);
        return Svd { left: right, values, right: left };
    }
    let mut turned = a.to_vec(); // [rows, columns]: diag(s) V^T in the end
    let mut turns = vec![0.0; rows * rows]; // the rotations: U^T
    (0..rows).for_each(|i| turns[i * rows + i] = 1.0);
    for _ in 0..SWEEPS {
        if !sweep(&mut turned, &mut turns, rows, columns) {
            break;
        }
    }
    let lengths: Vec<f64> = turned.chunks_exact(columns).map(|row| dot(row, row).sqrt()).collect();
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_by(|&a, &b| lengths[b].total_cmp(&lengths[a]));
    let unit = |&i: &usize| {
        let scale = if lengths[i] > 0.0 { 1.0 / lengths[i] } else { 0.0 };
        turned[i * columns..][..columns].iter().map(move |value| value * scale)
    };
    Svd {
        left: order.iter().flat_map(|&i| turns[i * rows..][..rows].to_vec()).collect(),
        values: order.iter().map(|&i| lengths[i]).collect(),
        right: order.iter().flat_map(unit).collect(),
    }
}

/// Sweeps after which Jacobi's rotations have long converged.
const SWEEPS: usize = 40;

/// Turns every pair of rows once; says whether any was not orthogonal yet.
fn sweep(turned: &mut [f64], turns: &mut [f64], rows: usize, columns: usize) -> bool {
    let mut moved = false;
    for second in 1..rows {
        for first in 0..second {
            let [a, b] = pair(turned, first, second, columns);
            let (aa, bb, ab) = (dot(a, a), dot(b, b), dot(a, b));
            if ab.abs() <= 1e-15 * (aa * bb).sqrt() || ab == 0.0 {
                continue;
            }
            moved = true;
            let zeta = (bb - aa) / (2.0 * ab);
            let tangent = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
            let cosine = 1.0 / (1.0 + tangent * tangent).sqrt();
            rotate([a, b], cosine, cosine * tangent);
            rotate(pair(turns, first, second, rows), cosine, cosine * tangent);
        }
    }
    moved
}

fn rotate([a, b]: [&mut [f64]; 2], cosine: f64, sine: f64) {
    for (a, b) in a.iter_mut().zip(b) {
        (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
    }
}

/// Two rows, `first < second`.
fn pair(matrix: &mut [f64], first: usize, second: usize, columns: usize) -> [&mut [f64]; 2] {
    let (head, tail) = matrix.split_at_mut(second * columns);
    [&mut head[first * columns..][..columns], &mut tail[..columns]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shrink::cholesky::lower;

    fn noise(count: usize) -> Vec<f64> {
        (0..count).map(|i| ((i * i * 31 + i * 17) % 1009) as f64 / 1009.0 - 0.5).collect()
    }

    fn assert_near(found: &[f64], wanted: &[f64]) {
        assert_eq!(found.len(), wanted.len());
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-9), "{found:?}\n{wanted:?}");
    }

    /// `A A^T + 0.1`, positive definite.
    fn positive(n: usize) -> Vec<f64> {
        let a = noise(n * (n + 3));
        let mut h = product(&a, &transpose(&a, n + 3), n + 3, n);
        (0..n).for_each(|i| h[i * n + i] += 0.1);
        h
    }

    #[test]
    fn solutions_multiply_back() {
        let n = 13;
        let h = positive(n);
        let l = lower(&h, n).unwrap();
        let mut rows = noise(2 * n);
        solve_rows(&l, n, &mut rows);
        assert_near(&product(&rows, &h, n, n), &noise(2 * n));
        let mut rows = noise(2 * n);
        divide_rows(&l, n, &mut rows);
        assert_near(&product(&rows, &l, n, n), &noise(2 * n));
    }

    #[test]
    fn singular_vectors_multiply_back() {
        for (rows, columns) in [(3, 7), (9, 4), (6, 6)] {
            let a = noise(rows * columns);
            let Svd { left, values, right } = svd(&a, rows, columns);
            let rank = rows.min(columns);
            assert!(values.windows(2).all(|pair| pair[0] >= pair[1]) && values.len() == rank);
            let mut scaled = transpose(&left, rows); // [rows, rank]
            scaled.iter_mut().enumerate().for_each(|(at, value)| *value *= values[at % rank]);
            assert_near(&product(&scaled, &right, rank, columns), &a);
            let gram = product(&right, &transpose(&right, columns), columns, rank);
            assert!((0..rank * rank).all(|at| {
                let wanted = if at % (rank + 1) == 0 { 1.0 } else { 0.0 };
                (gram[at] - wanted).abs() < 1e-9
            }));
        }
        // diag(3, 2) turned by 45 degrees keeps its singular values.
        let half = 0.5f64.sqrt();
        let found = svd(&[3.0 * half, 3.0 * half, -2.0 * half, 2.0 * half], 2, 2).values;
        assert_near(&found, &[3.0, 2.0]);
    }
}
