//! expert_linear+expert_sum / block schemes / int8 (cpu_simd)
//! op:        y[t] = Σⱼ weights[t, j]·(x[t, j]·wᵀ (+ bias)) with the matrices of the
//!            chosen experts, in ascending order of experts (in plans for single rows:
//!            of j)
//! shapes:    x [T, K] or [T, k, K]; w [E·N, K] in panels of 16 rows; experts [T, k]
//!            u32; bias [E·N]; weights [T, k]; y [T, N]
//! dtypes:    activations int8, a scale for each 32 elements; byte products summed
//!            in i32, blocks in f32
//! partition: threads share the columns; see common/experts.rs
//! source:    written here
//! parity:    5e-5

crate::common::matmul_kernels::int8_kernels!(
    by experts_kernels, &registry::patterns::EXPERTS_DOWN_SUM, rank 50
);
