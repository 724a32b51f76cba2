//! expert_linear+expert_linear+silu_mul / block schemes / int8 (cpu_simd)
//! op:        y = silu(x·Gᵀ)·(x·Uᵀ) with the matrices of the chosen experts
//! shapes:    x [T, K] or [T, k, K]; G, U [E·N, K] in panels of 16 rows; experts
//!            [T, k] u32; biases [E·N]; y [T, k, N]
//! dtypes:    activations int8, a scale for each 32 elements; byte products summed
//!            in i32, blocks in f32
//! partition: threads share (expert, run of columns) by what they cost; see
//!            common/experts.rs
//! source:    written here
//! parity:    5e-5

crate::common::matmul_kernels::int8_kernels!(
    by experts_kernels, &registry::patterns::EXPERTS_GATE_UP, rank 50
);
