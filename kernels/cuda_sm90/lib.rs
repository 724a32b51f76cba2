//! `cuda_sm90`: what gains from the tensor cores and the copy engine of Hopper.
//!
//! Everything else, and all that the kernels here share, comes from the declared
//! parent, `cuda_sm86`. Its PTX is for compute capability 9.0a: no other device runs
//! it, newer ones neither.

// Folders, and so modules, carry their layer's name: ops joined by `__`.
#![allow(non_snake_case)]

mod attention {
    mod wgmma;
}
mod common {
    pub mod few;
    pub mod gemm;
    pub mod grouped;
}

mod expert_linear {
    mod wgmma;
}
mod expert_linear__expert_linear__silu_mul {
    mod wgmma;
}

mod linear {
    mod tf32x3;
    mod wgmma;
    mod wgmma_few;
}
mod linear__add {
    mod wgmma;
    mod wgmma_few;
}
mod linear__linear {
    mod wgmma;
    mod wgmma_few;
}
mod linear__linear__linear {
    mod wgmma;
    mod wgmma_few;
}
mod linear__linear__silu_mul {
    mod wgmma;
    mod wgmma_few;
}
mod rms_norm__linear__linear {
    mod wgmma;
    mod wgmma_few;
}
mod rms_norm__linear__linear__linear {
    mod wgmma;
    mod wgmma_few;
}
mod rms_norm__linear__linear__silu_mul {
    mod wgmma;
    mod wgmma_few;
}

use hal::cuda::{CudaDevice, probe_within};
use registry::Backend;
use std::sync::Arc;

/// The tree's name on the backend axis.
pub const BACKEND: &str = "cuda_sm90";

/// The one compute capability, 10·major + minor.
const CAPABILITY: u32 = 90;

registry::inventory::submit! {
    Backend {
        name: BACKEND,
        api: "cuda",
        parent: Some(cuda_sm86::BACKEND),
        auto: true,
        hardware_only: true,
        kv: &["f16", "f32", "bf16", "int8_kv"],
        rows: 4096,
        probe: |_| probe_within(CAPABILITY, CAPABILITY),
        open: |_, index| Ok(Arc::new(CudaDevice::open(index)?)),
        file: file!(),
    }
}
