//! rms_norm+linear+linear+silu_mul / f32, f16, bf16 / packed, bf16_dot, amx (cpu_simd)
//! op:        h = rms_norm(x); y = silu(h·Gᵀ)·(h·Uᵀ)
//! shapes:    x [R, K]; norm weight [K]; G, U [N, K] in panels; y [R, N]
//! dtypes:    packed: activations f32; bf16_dot, amx: activations rounded to
//!            bf16. All sums in f32.
//! partition: threads share (block of rows, one or two panels); see
//!            common/matmul.rs
//! source:    written here
//! parity:    5e-5 (packed), 4e-3 (bf16 activations: a norm's last bit may turn a rounding)

crate::common::matmul_kernels::matmul_kernels!(&registry::patterns::NORM_GATE_UP, rank 60);
