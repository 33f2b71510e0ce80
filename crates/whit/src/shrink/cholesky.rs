//! Cholesky factors in `f64`, for second-moment matrices.

use whit_kernels::parallel;

/// The lower factor `L` of a symmetric positive definite matrix `[size, size]`, `A = L L^T`; `None` where
/// it is not positive definite.
pub fn lower(matrix: &[f64], size: usize) -> Option<Vec<f64>> {
    let mut factor = matrix.to_vec();
    for j in 0..size {
        let (above, below) = factor.split_at_mut((j + 1) * size);
        let row = &mut above[j * size..];
        let pivot = row[j] - dot(&row[..j], &row[..j]);
        if pivot.is_nan() || pivot <= 0.0 || pivot.is_infinite() {
            return None;
        }
        row[j] = pivot.sqrt();
        row[j + 1..].fill(0.0);
        let row = &*row;
        parallel::pieces(below, size * ROWS, |_, rows| {
            for other in rows.chunks_exact_mut(size) {
                other[j] = (other[j] - dot(&other[..j], &row[..j])) / row[j];
            }
        });
    }
    Some(factor)
}

/// Rows that a thread takes at a time.
const ROWS: usize = 64;

/// The upper factor `U` of the inverse of a symmetric positive definite matrix, `A^-1 = U^T U`, without
/// inverting it: with the order of rows and columns reversed, `A = L L^T` gives `U` as the reversed
/// `L^-1`. Row-major, zeros below the diagonal. `None` where the matrix is not positive definite.
pub fn upper_of_inverse(matrix: &[f64], size: usize) -> Option<Vec<f64>> {
    let mut reversed = matrix.to_vec();
    reversed.reverse();
    let factor = lower(&reversed, size)?;
    // Column j of L^-1 solves L m = e_j; it becomes row j of the transposed inverse.
    let mut columns = vec![0.0; size * size];
    parallel::pieces(&mut columns, size, |j, column| {
        column[j] = 1.0 / factor[j * size + j];
        for i in j + 1..size {
            let row = &factor[i * size..];
            column[i] = -dot(&row[j..i], &column[j..i]) / row[i];
        }
    });
    let mut upper = vec![0.0; size * size];
    parallel::pieces(&mut upper, size, |i, row| {
        for (k, value) in row.iter_mut().enumerate().skip(i) {
            *value = columns[(size - 1 - k) * size + size - 1 - i];
        }
    });
    Some(upper)
}

/// Eight sums side by side, which the compiler keeps in vectors.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut lanes = [0.0; 8];
    for (a, b) in a.0.iter().zip(b.0) {
        for i in 0..8 {
            lanes[i] += a[i] * b[i];
        }
    }
    lanes.iter().sum::<f64>() + a.1.iter().zip(b.1).map(|(a, b)| a * b).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(a: &[f64], b: &[f64], size: usize) -> Vec<f64> {
        let cell = |i: usize, j: usize| (0..size).map(|k| a[i * size + k] * b[k * size + j]).sum();
        (0..size * size).map(|at| cell(at / size, at % size)).collect()
    }

    fn transposed(a: &[f64], size: usize) -> Vec<f64> {
        (0..size * size).map(|at| a[at % size * size + at / size]).collect()
    }

    fn positive(size: usize) -> Vec<f64> {
        let root: Vec<f64> = (0..size * size).map(|i| ((i * i) as f64 * 0.7).sin()).collect();
        let mut matrix = product(&root, &transposed(&root, size), size);
        (0..size).for_each(|i| matrix[i * size + i] += 0.1);
        matrix
    }

    #[test]
    fn factors_multiply_back() {
        for size in [1, 2, 7, 33, 80] {
            let matrix = positive(size);
            let factor = lower(&matrix, size).unwrap();
            let again = product(&factor, &transposed(&factor, size), size);
            assert!(again.iter().zip(&matrix).all(|(a, b)| (a - b).abs() < 1e-9), "{size}");
            let upper = upper_of_inverse(&matrix, size).unwrap();
            assert!((0..size).all(|i| upper[i * size..][..i].iter().all(|&below| below == 0.0)));
            let identity = product(&product(&transposed(&upper, size), &upper, size), &matrix, size);
            let off = |at: usize| identity[at] - f64::from(u8::from(at / size == at % size));
            assert!((0..size * size).all(|at| off(at).abs() < 1e-7), "{size}");
        }
    }

    #[test]
    fn what_is_not_positive_definite_has_no_factor() {
        assert_eq!(lower(&[1.0, 2.0, 2.0, 1.0], 2), None);
        assert_eq!(upper_of_inverse(&[0.0], 1), None);
        assert_eq!(lower(&[0.0; 4], 2), None);
        assert_eq!(lower(&[f64::NAN], 1), None);
    }
}
