//! `cpu_reference`: the oracle.
//!
//! Plain kernels without intrinsics that define what every other tree must
//! compute. Sums run in [`common::lanes`]' fixed order, each output element is
//! computed by one thread, and no result depends on the number of threads or on
//! the other rows of a batch, so the bits are the same in every run. Matrices are
//! taken in the file's own order (`row_major`) and caches in f32, f16 or bf16.
//!
//! `linear` exists once for each activation format (`act_f32`, `act_bf16`, …):
//! a kernel of another tree is compared with the variant of its own format. A new
//! format is a rounding function in [`common::act`] and a file in `linear/`. Likewise
//! `attention` (`plain`, `act_f16`).

mod common {
    pub mod act;
    pub mod gated;
    pub mod lanes;
    pub mod linear;
    pub mod plumbing;
    pub mod pointwise;
    pub mod stacked;
    pub mod stored;
}

mod add {
    mod plain;
}
mod argmax {
    mod plain;
}
mod attention {
    mod act_f16;
    mod plain;
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
    mod act_bf16;
    mod act_f16;
    mod act_f32;
    mod act_q8_256;
    mod act_q8_32;
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

mod gelu_tanh_mul {
    mod plain;
}
mod gelu_mul {
    mod plain;
}
mod sigmoid_mul {
    mod plain;
}
mod mul {
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
mod scale {
    mod plain;
}
mod softcap {
    mod plain;
}
mod route {
    mod plain;
}
mod expert_sum {
    mod plain;
}
mod causal_conv {
    mod plain;
}
mod latent_append {
    mod plain;
}
mod latent_attention {
    mod plain;
}
mod rotate {
    mod plain;
}
mod gated_delta {
    mod recurrent;
}
mod expert_linear {
    mod act_bf16;
    mod act_f16;
    mod act_f32;
    mod act_q8_32;
}
mod head_linear {
    mod act_bf16;
    mod act_f16;
    mod act_f32;
    mod act_q8_32;
}

use hal::cpu::CpuDevice;
use registry::Backend;
use std::sync::Arc;

/// The tree's name on the backend axis.
pub const BACKEND: &str = "cpu_reference";

registry::inventory::submit! {
    Backend {
        name: BACKEND,
        api: "cpu",
        parent: None,
        auto: false,
        hardware_only: false,
        kv: &["f32", "f16", "bf16", "int8_kv"],
        rows: 512,
        probe: |o| Ok(vec![hal::cpu::probe(&o.cpu())?]),
        open: |o, _| Ok(Arc::new(CpuDevice::open(&o.cpu())?)),
        file: file!(),
    }
}
