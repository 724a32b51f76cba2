//! head_linear / f32, f16, bf16 / packed, bf16_dot (cpu_simd)
//! op:        y = x·wᵀ with the matrix of each head
//! shapes:    x [T, heads, K]; w [heads·N, K] in panels of 16 rows; y [T, heads, N]
//! dtypes:    packed: activations f32; bf16_dot: rounded to bf16. All sums in f32.
//! partition: threads share (head, run of columns); see common/experts.rs
//! source:    written here
//! parity:    5e-5 (packed), 1e-4 (bf16 activations)

crate::common::experts_kernels::plain_experts!(&registry::Pattern::HEAD_LINEAR, rank 10);
