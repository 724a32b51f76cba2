//! rms_norm+linear+linear+linear / f32, f16, bf16 / packed, bf16_dot, amx (cpu_simd)
//! op:        h = rms_norm(x); yᵢ = h·Wᵢᵀ (+ biasᵢ), i = 0, 1, 2
//! shapes:    x [R, K]; norm weight [K]; wᵢ [Nᵢ, K] in panels; yᵢ [R, Nᵢ]
//! dtypes:    packed: activations f32; bf16_dot, amx: activations rounded to
//!            bf16. All sums in f32.
//! partition: threads share (block of rows, one or two panels); see
//!            common/matmul.rs
//! source:    written here
//! parity:    5e-5 (packed), 4e-3 (bf16 activations: a norm's last bit may turn a rounding)

crate::common::matmul_kernels::matmul_kernels!(&registry::patterns::NORM_QKV, rank 60);
