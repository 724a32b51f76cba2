//! `vulkan`: GLSL compute shaders, compiled ahead of time to SPIR-V.
//!
//! It runs on any Vulkan 1.3 device with 16-bit storage and subgroup arithmetic.
//! Few rows are multiplied in int8 where products of bytes are fast, many rows by
//! cooperative matrices where there are any; everything else is f32.
//!
//! Each kernel is a pair `<layer>/<variant>.{comp,rs}`. `prebuilt/` holds the
//! SPIR-V that is built into the binary; `cargo xtask prebuild vulkan`
//! rebuilds it. What is fixed when a plan is recorded (offsets, strides) travels
//! in push constants; what changes from step to step only in the step buffer.

// Folders, and so modules, carry their layer's name: ops joined by `__`.
#![allow(non_snake_case)]

mod common {
    pub mod args;
    pub mod cache;
    pub mod conv_delta;
    pub mod coopmat;
    pub mod coopmat2;
    pub mod coopmat_tiles;
    pub mod experts;
    pub mod experts2;
    pub mod gate_up;
    pub mod gated;
    pub mod grouped;
    pub mod launch;
    pub mod linear;
    pub mod mixture;
    pub mod pointwise;
    pub mod products_q8;
    pub mod rope_attend;
    pub mod stacked;
    pub mod state;
    pub mod stored;
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
mod attention {
    mod flash;
    mod paged;
    mod split;
}
mod embed {
    mod plain;
}
mod gather_rows {
    mod plain;
}
mod kv_append {
    mod plain;
}
mod linear {
    mod coopmat;
    mod coopmat2;
    mod coopmat_f16;
    mod gemv;
    mod gemv_q8;
    mod tiled;
}
mod linear__add {
    mod gemv_q8;
}
mod linear__add__rms_norm {
    mod gemv_q8;
}
mod linear__linear {
    mod gemv_q8;
}
mod linear__linear__linear {
    mod gemv_q8;
}
mod linear__linear__route {
    mod fused;
}
mod linear__linear__silu_mul {
    mod coopmat;
    mod coopmat_f16;
    mod gemv;
    mod gemv_q8;
}
mod rms_norm {
    mod plain;
}
mod rms_norm__linear__linear__linear {
    mod gemv_q8;
}
mod rms_norm__linear__linear__silu_mul {
    mod gemv_q8;
}
mod rms_norm__rms_norm__rope__rope__kv_append {
    mod fused;
}
mod rms_norm__rms_norm__rope__rope__kv_append__attention {
    mod split;
}
mod rope {
    mod plain;
}
mod rope__rope__kv_append__attention {
    mod split;
}
mod rope_table {
    mod plain;
}
mod silu_mul {
    mod plain;
}
mod causal_conv {
    mod plain;
}
mod causal_conv__causal_conv__causal_conv__gated_delta {
    mod recurrent;
}
mod causal_conv__causal_conv__causal_conv__gated_delta__rms_norm__silu_mul {
    mod recurrent;
}
mod expert_linear {
    mod coopmat;
    mod coopmat2;
    mod coopmat_f16;
    mod gemv;
}
mod expert_linear__expert_linear__silu_mul {
    mod gemv_q8;
}
mod expert_linear__expert_linear__silu_mul__linear__linear__silu_mul {
    mod gemv_q8;
}
mod expert_linear__expert_sum__linear__sigmoid_mul__add__add {
    mod gemv_q8;
}
mod expert_linear__expert_sum__linear__sigmoid_mul__add__add__rms_norm {
    mod gemv_q8;
}
mod expert_sum {
    mod plain;
}
mod gated_delta {
    mod chunked;
    mod recurrent;
}
mod gelu_mul {
    mod plain;
}
mod gelu_tanh_mul {
    mod plain;
}
mod head_linear {
    mod gemv;
}
mod latent_append {
    mod plain;
}
mod latent_attention {
    mod paged;
}
mod mul {
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

use hal::vulkan::{VulkanDevice, VulkanOptions, probe};
use registry::Backend;
use std::sync::Arc;

/// The tree's name on the backend axis.
pub const BACKEND: &str = "vulkan";

registry::inventory::submit! {
    Backend {
        name: BACKEND,
        api: "vulkan",
        parent: None,
        auto: true,
        hardware_only: false,
        kv: &["f16", "f32", "bf16", "int8_kv"],
        rows: 2048,
        probe: |_| probe(),
        open: |_, index| {
            let device = VulkanDevice::open(index, &VulkanOptions::from_env())?;
            if let Some(line) = device.pipeline_cache_notice() {
                eprintln!("{line}");
            }
            Ok(Arc::new(device))
        },
        file: file!(),
    }
}
