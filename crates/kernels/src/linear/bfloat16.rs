//! Linear layers in bf16, with the AVX-512 BF16 dot product where there is one.
