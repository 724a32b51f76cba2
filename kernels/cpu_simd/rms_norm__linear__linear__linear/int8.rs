//! rms_norm+linear+linear+linear / block schemes / int8 (cpu_simd)
//! op:        h = rms_norm(x); yᵢ = h·Wᵢᵀ (+ biasᵢ), i = 0, 1, 2
//! shapes:    x [R, K]; norm weight [K]; wᵢ [Nᵢ, K] in panels; yᵢ [R, Nᵢ]
//! dtypes:    activations int8, a scale for each 32 elements; byte products
//!            summed in i32, blocks in f32
//! partition: threads share (block of rows, one or two panels); see
//!            common/matmul.rs
//! source:    written here
//! parity:    1.5e-2 (a norm's last bit may turn a rounding)
//! mixes:     what files in a mixed scheme keep of q, k and v

crate::common::matmul_kernels::int8_kernels!(
    &registry::patterns::NORM_QKV, rank 60,
    Q4_K_Q6_K = ["q4_k", "q4_k", "q6_k"],
    Q5_K_Q6_K = ["q5_k", "q5_k", "q6_k"],
    Q4_K_Q5_K = ["q4_k", "q4_k", "q5_k"],
    Q3_K_Q5_K = ["q3_k", "q3_k", "q5_k"],
    Q3_K_Q4_K = ["q3_k", "q3_k", "q4_k"],
    Q2_K_Q3_K = ["q2_k", "q2_k", "q3_k"],
    Q2_K_Q4_K = ["q2_k", "q2_k", "q4_k"],
    IQ4_XS_Q5_K = ["iq4_xs", "iq4_xs", "q5_k"],
    Q4_0_Q6_K = ["q4_0", "q4_0", "q6_k"]
);
