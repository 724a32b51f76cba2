//! rms_norm+linear / block schemes / int8 (cpu_simd)
//! op:        y = rms_norm(x)·Wᵀ (+ bias)
//! shapes:    x [R, K]; norm weight [K]; w [N, K] in panels; y [R, N]
//! dtypes:    activations int8, a scale for each 32 elements; byte products
//!            summed in i32, blocks in f32
//! partition: threads share (block of rows, one or two panels); see
//!            common/matmul.rs
//! source:    written here
//! parity:    1.5e-2 (a norm's last bit may turn a rounding)

crate::common::matmul_kernels::int8_kernels!(&registry::patterns::NORM_LINEAR, rank 40);
