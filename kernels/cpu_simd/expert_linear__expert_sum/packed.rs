//! expert_linear+expert_sum / f32, f16, bf16 / packed, bf16_dot (cpu_simd)
//! op:        y[t] = Σⱼ weights[t, j]·(x[t, j]·wᵀ (+ bias)) with the matrices of the
//!            chosen experts, in ascending order of experts (in plans for single rows:
//!            of j)
//! shapes:    x [T, K] or [T, k, K]; w [E·N, K] in panels of 16 rows; experts [T, k]
//!            u32; bias [E·N]; weights [T, k]; y [T, N]
//! dtypes:    packed: activations f32; bf16_dot: rounded to bf16. All sums in f32.
//! partition: threads share the columns; see common/experts.rs
//! source:    written here
//! parity:    5e-5 (packed), 1e-4 (bf16 activations)

crate::common::experts_kernels::plain_experts!(&registry::patterns::EXPERTS_DOWN_SUM, rank 50);
