//! The fast CPU tree: AVX2, AVX-512 and AMX, or NEON, chosen at run time.
//!
//! Kernel bodies are written once over [`common::simd`]'s sixteen lanes and run
//! with the best instruction set that the device lists, plain arrays included,
//! so every kernel runs on any CPU. What changes the numbers is a variant of its
//! own: `packed` multiplies f32 activations, `bf16_dot` and `amx` round them to
//! bf16. Weights are packed in panels of 16 rows ([`common::layout`]).

// Folders, and so modules, carry their layer's name: ops joined by `__`.
#![allow(non_snake_case)]
// Unit tests are of `common` alone. Kernels are bodies times instruction sets, which
// take minutes to compile: once, for what the gates test, is enough.
#![cfg_attr(test, allow(dead_code, unused_macros, unused_imports))]

mod common {
    #[cfg(test)]
    pub mod agrees;
    pub mod append;
    pub mod attend;
    #[cfg(target_arch = "x86_64")]
    pub mod attend_amx;
    pub mod attend_of;
    pub mod decode;
    pub mod delta;
    pub mod elem;
    pub mod experts;
    pub mod experts_f32;
    pub mod experts_kernels;
    pub mod experts_q8;
    pub mod experts_sizes;
    pub mod gated;
    pub mod int;
    #[cfg(target_arch = "aarch64")]
    pub mod int_neon;
    #[cfg(target_arch = "x86_64")]
    pub mod int_x86;
    #[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
    pub mod intrinsics;
    pub mod layout;
    pub mod math;
    pub mod matmul;
    #[cfg(target_arch = "x86_64")]
    pub mod matmul_amx;
    #[cfg(target_arch = "x86_64")]
    pub mod matmul_bf16;
    pub mod matmul_f32;
    pub mod matmul_few;
    pub mod matmul_kernels;
    pub mod matmul_q8;
    pub mod matmul_sink;
    #[cfg(target_arch = "aarch64")]
    pub mod neon;
    pub mod parts;
    pub mod plumbing;
    pub mod pointwise;
    pub mod q8;
    pub mod q_codes;
    pub mod q_scheme;
    pub mod q_sides;
    pub mod rope;
    pub mod rope_append;
    pub mod simd;
    pub mod stacked;
    #[cfg(target_arch = "x86_64")]
    pub mod x86;
}

#[cfg(not(test))]
mod add {
    mod simd;
}
#[cfg(not(test))]
mod add__rms_norm {
    mod simd;
}
#[cfg(not(test))]
mod argmax {
    mod simd;
}
#[cfg(not(test))]
mod attention {
    #[cfg(target_arch = "x86_64")]
    mod amx;
    mod simd;
}
#[cfg(not(test))]
mod embed {
    mod blocks;
    mod simd;
}
#[cfg(not(test))]
mod gather_rows {
    mod simd;
}
#[cfg(not(test))]
mod kv_append {
    mod simd;
}
#[cfg(not(test))]
mod linear {
    mod decoded;
    mod int8;
    mod packed;
    mod rows;
}
#[cfg(not(test))]
mod linear__add {
    mod int8;
    mod packed;
}
#[cfg(not(test))]
mod linear__linear__silu_mul {
    mod int8;
    mod packed;
}
#[cfg(not(test))]
mod rms_norm {
    mod simd;
}
#[cfg(not(test))]
mod rms_norm__linear {
    mod int8;
    mod packed;
}
#[cfg(not(test))]
mod rms_norm__linear__linear__linear {
    mod int8;
    mod packed;
}
#[cfg(not(test))]
mod rms_norm__linear__linear__silu_mul {
    mod int8;
    mod packed;
}
#[cfg(not(test))]
mod rms_norm__rms_norm__rope__rope__kv_append {
    mod simd;
}
#[cfg(not(test))]
mod rope {
    mod simd;
}
#[cfg(not(test))]
mod rope__rope__kv_append {
    mod simd;
}
#[cfg(not(test))]
mod rope_table {
    mod simd;
}
#[cfg(not(test))]
mod silu_mul {
    mod simd;
}

#[cfg(not(test))]
mod gelu_tanh_mul {
    mod simd;
}
#[cfg(not(test))]
mod gelu_mul {
    mod simd;
}
#[cfg(not(test))]
mod sigmoid_mul {
    mod simd;
}
#[cfg(not(test))]
mod mul {
    mod simd;
}
#[cfg(not(test))]
mod swiglu_oai_mul {
    mod simd;
}
#[cfg(not(test))]
mod top_k {
    mod simd;
}
#[cfg(not(test))]
mod exp_sum {
    mod simd;
}
#[cfg(not(test))]
mod scale {
    mod simd;
}
#[cfg(not(test))]
mod softcap {
    mod simd;
}
#[cfg(not(test))]
mod route {
    mod simd;
}
#[cfg(not(test))]
mod expert_sum {
    mod simd;
}
#[cfg(not(test))]
mod causal_conv {
    mod simd;
}
#[cfg(not(test))]
mod latent_append {
    mod simd;
}
#[cfg(not(test))]
mod latent_attention {
    mod simd;
}
#[cfg(not(test))]
mod rotate {
    mod simd;
}
#[cfg(not(test))]
mod gated_delta {
    mod chunked;
    mod columns;
}
#[cfg(not(test))]
mod expert_linear {
    mod int8;
    mod packed;
    mod rows;
}
#[cfg(not(test))]
mod expert_linear__expert_linear__silu_mul {
    mod int8;
    mod packed;
}
#[cfg(not(test))]
mod expert_linear__expert_linear__swiglu_oai_mul {
    mod int8;
    mod packed;
}
#[cfg(not(test))]
mod expert_linear__expert_sum {
    mod int8;
    mod packed;
}
#[cfg(not(test))]
mod head_linear {
    mod int8;
    mod packed;
    mod rows;
}

use hal::cpu::CpuDevice;
use registry::Backend;
use std::sync::Arc;

/// The tree's name on the backend axis.
pub const BACKEND: &str = "cpu_simd";

registry::inventory::submit! {
    Backend {
        name: BACKEND,
        api: "cpu",
        parent: None,
        auto: true,
        hardware_only: false,
        kv: &["f16", "f32", "bf16", "int8_kv"],
        rows: 512,
        probe: |o| Ok(vec![hal::cpu::probe(&o.cpu())?]),
        open: |o, _| Ok(Arc::new(CpuDevice::open(&o.cpu())?)),
        file: file!(),
    }
}
