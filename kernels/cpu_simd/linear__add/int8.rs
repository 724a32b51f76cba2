//! linear+add / block schemes / int8 (cpu_simd)
//! op:        y = residual + (x·Wᵀ (+ bias))
//! shapes:    x [R, …=K]; w [N, K] in panels; residual, y [R, N]
//! dtypes:    activations int8, a scale for each 32 elements; byte products
//!            summed in i32, blocks in f32
//! partition: threads share (block of rows, one or two panels); see
//!            common/matmul.rs
//! source:    written here
//! parity:    5e-5

crate::common::matmul_kernels::int8_kernels!(&registry::patterns::LINEAR_ADD, rank 50);
