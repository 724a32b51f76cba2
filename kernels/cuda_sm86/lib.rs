//! `cuda_sm86`: CUDA C++ kernels for Ampere and every later NVIDIA GPU, compiled
//! ahead of time to PTX.
//!
//! Each kernel is registered by `<layer>/<variant>.rs`; its source lies beside it
//! or, where several layers share a body, in `common/`. `prebuilt/` holds the PTX
//! that is built into the binary and that the driver compiles at first use; `cargo
//! xtask prebuild cuda` rebuilds it. What is fixed when a plan is recorded
//! (addresses, strides) travels in a kernel's parameters; what changes from step to
//! step only in the step buffer.

// Folders, and so modules, carry their layer's name: ops joined by `__`.
#![allow(non_snake_case)]

/// What the kernels share, for trees whose declared parent is this one too.
pub mod common {
    pub mod args;
    pub mod attend;
    pub mod cache;
    pub mod conv_delta;
    pub mod delta;
    pub mod gemm;
    pub mod gemv;
    pub mod grouped;
    pub mod launch;
    pub mod layout;
    pub mod layout_blocks;
    pub mod linears;
    pub mod mixture;
    pub mod mma_gemm;
    pub mod mma_gemv;
    pub mod pointwise;
    pub mod rope_append;
    pub mod rounded;
    pub mod split;
    pub mod split_mma;
    pub mod stacked;
    pub mod state;
    pub mod tail;
    pub mod tf32x3;
    pub mod unpacked;
}

mod add {
    mod plain;
}
mod add__rms_norm {
    mod fused;
}
mod argmax {
    mod plain;
}
pub mod attention {
    pub mod flash;
    mod flash_wide;
    mod paged;
    mod split_kv;
    mod split_mma;
}
mod causal_conv {
    mod plain;
    mod window;
}
mod causal_conv__causal_conv__causal_conv__gated_delta {
    mod recurrent;
}
mod causal_conv__causal_conv__causal_conv__gated_delta__rms_norm__silu_mul {
    mod recurrent;
}
mod embed {
    mod mma16;
    mod plain;
}
mod expert_linear {
    mod gemv;
    mod grouped;
    mod mma_gemv;
}
mod expert_linear__expert_linear__silu_mul {
    mod grouped;
    mod mma_gemv;
}
mod expert_linear__expert_linear__silu_mul__linear__linear__silu_mul {
    mod mixture;
}
mod expert_linear__expert_sum__linear__sigmoid_mul__add__add {
    mod mixture;
}
mod expert_linear__expert_sum__linear__sigmoid_mul__add__add__rms_norm {
    mod mixture;
}
mod expert_sum {
    mod plain;
}
mod expert_sum__add__rms_norm {
    mod fused;
}
mod expert_sum__sigmoid_mul__add__add__rms_norm {
    mod fused;
}
mod gated_delta {
    mod chunked;
    mod recurrent;
}
mod gather_rows {
    mod plain;
}
mod gelu_mul {
    mod plain;
}
mod gelu_tanh_mul {
    mod plain;
}
mod head_linear {
    mod gemv;
    mod mma_gemv;
}
mod kv_append {
    mod plain;
}
mod latent_append {
    mod plain;
}
mod latent_attention {
    mod paged;
}
mod linear {
    mod fma;
    mod gemm;
    mod gemm_split;
    mod gemv;
    mod mma_gemm;
    mod mma_gemv;
    mod tf32x3;
    mod tiled;
    mod unpacked;
}
mod linear__add {
    mod gemv;
    mod mma_gemm;
    mod mma_gemv;
}
mod linear__add__rms_norm {
    mod mma_gemv;
}
mod linear__linear {
    mod gemv;
    mod mma_gemm;
    mod mma_gemv;
}
mod linear__linear__causal_conv__causal_conv__causal_conv__gated_delta__rms_norm__silu_mul {
    mod recurrent;
}
mod linear__linear__linear {
    mod gemv;
    mod mma_gemm;
    mod mma_gemv;
}
mod linear__linear__linear__linear {
    mod gemv;
    mod mma_gemv;
}
mod linear__linear__route {
    mod fused;
}
mod linear__linear__silu_mul {
    mod gemv;
    mod mma_gemm;
    mod mma_gemv;
}
mod mul {
    mod plain;
}
mod rms_norm {
    mod plain;
}
mod rms_norm__linear {
    mod gemv;
    mod mma_gemv;
}
mod rms_norm__linear__linear {
    mod gemv;
    mod mma_gemv;
}
mod rms_norm__linear__linear__linear {
    mod gemv;
    mod mma_gemv;
}
mod rms_norm__linear__linear__silu_mul {
    mod gemv;
    mod mma_gemv;
}
mod rms_norm__rms_norm__rope__rope__kv_append {
    mod fused;
}
mod rms_norm__rms_norm__rope__rope__kv_append__attention {
    mod split_mma;
}
mod rms_norm__silu_mul {
    mod fused;
}
mod rope {
    mod plain;
}
mod rope__rope__kv_append {
    mod fused;
}
mod rope__rope__kv_append__attention {
    mod split_mma;
}
mod rope_table {
    mod plain;
}
mod rotate {
    mod plain;
}
mod route {
    mod plain;
}
mod scale {
    mod plain;
}
mod sigmoid_mul {
    mod plain;
}
mod silu_mul {
    mod plain;
}
mod softcap {
    mod plain;
}
mod swiglu_oai_mul {
    mod plain;
}
mod top_k {
    mod plain;
}
mod exp_sum {
    mod plain;
}

use hal::cuda::{CudaDevice, probe};
use registry::Backend;
use std::sync::Arc;

/// The tree's name on the backend axis.
pub const BACKEND: &str = "cuda_sm86";

/// Least compute capability, 10·major + minor.
const CAPABILITY: u32 = 86;

registry::inventory::submit! {
    Backend {
        name: BACKEND,
        api: "cuda",
        parent: None,
        auto: true,
        hardware_only: true,
        kv: &["f16", "f32", "bf16", "int8_kv"],
        rows: 512,
        probe: |_| probe(CAPABILITY),
        open: |_, index| Ok(Arc::new(CudaDevice::open(index)?)),
        file: file!(),
    }
}
