//! head_linear / block schemes / int8 (cpu_simd)
//! op:        y = x·wᵀ with the matrix of each head
//! shapes:    x [T, heads, K]; w [heads·N, K] in panels of 16 rows; y [T, heads, N]
//! dtypes:    activations int8, a scale for each 32 elements; byte products summed
//!            in i32, blocks in f32
//! partition: threads share (head, run of columns); see common/experts.rs
//! source:    written here
//! parity:    5e-5

crate::common::matmul_kernels::int8_kernels!(by experts_kernels, &registry::Pattern::HEAD_LINEAR, rank 10);
