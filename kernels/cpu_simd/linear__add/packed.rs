//! linear+add / f32, f16, bf16 / packed, bf16_dot, amx (cpu_simd)
//! op:        y = residual + (x·Wᵀ (+ bias))
//! shapes:    x [R, …=K]; w [N, K] in panels; residual, y [R, N]
//! dtypes:    packed: activations f32; bf16_dot, amx: activations rounded to
//!            bf16. All sums in f32.
//! partition: threads share (block of rows, one or two panels); see
//!            common/matmul.rs
//! source:    written here
//! parity:    5e-5 (packed), 1e-4 (bf16 activations)

crate::common::matmul_kernels::matmul_kernels!(&registry::patterns::LINEAR_ADD, rank 50);
