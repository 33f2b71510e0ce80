//! Two-dimensional convolution by implicit GEMM with packed weights.
