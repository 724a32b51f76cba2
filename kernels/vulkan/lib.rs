//! `vulkan`: GLSL compute shaders, compiled ahead of time to SPIR-V.
//!
//! A plain tree that runs on any Vulkan 1.3 device with 16-bit storage and
//! subgroup arithmetic: `linear` for f32, f16 and bf16 weights in the file's own
//! order, paged attention over f32, f16 and bf16 caches, and the small ops. It
//! multiplies f32 activations and adds in f32.
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
    pub mod launch;
    pub mod linear;
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
    mod paged;
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
    mod gemv;
    mod tiled;
}
mod linear__linear__silu_mul {
    mod gemv;
}
mod rms_norm {
    mod plain;
}
mod rope {
    mod plain;
}
mod rope_table {
    mod plain;
}
mod silu_mul {
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
        kv: &["f16", "f32", "bf16"],
        probe: |_| probe(),
        open: |_, index| {
            Ok(Arc::new(VulkanDevice::open(index, &VulkanOptions::from_env())?))
        },
        file: file!(),
    }
}
