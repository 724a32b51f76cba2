//! expert_linear+expert_linear+swiglu_oai_mul / f32, f16, bf16 / packed, bf16_dot (cpu_simd)
//! op:        y = swiglu_oai(x·Gᵀ, x·Uᵀ) with the matrices of the chosen experts
//! shapes:    x [T, K] or [T, k, K]; G, U [E·N, K] in panels of 16 rows; experts
//!            [T, k] u32; biases [E·N]; y [T, k, N]
//! dtypes:    packed: activations f32; bf16_dot: rounded to bf16. All sums in f32.
//! partition: threads share (expert, run of columns) by what they cost; see
//!            common/experts.rs
//! source:    written here
//! parity:    5e-5

crate::common::experts_kernels::plain_experts!(&registry::patterns::EXPERTS_GATE_UP_OAI, rank 50);
