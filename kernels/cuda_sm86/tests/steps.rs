//! What a decode step of a hybrid mixture is made of. A plan needs no device.

use hal::Device;
use hal::cpu::CpuDevice;
use kernels as _;
use registry::{OpenOptions, Registry};
use runtime::{LoadOptions, Opened};
use std::path::Path;

/// The layers' kernels of the bucket of `rows` rows in order, on either tree.
fn layers(backend: &str, rows: usize) -> Vec<String> {
    let device = CpuDevice::open(&OpenOptions::default().cpu()).expect("a CPU");
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models");
    let opened = Opened::open(&models.join("qwen3_5_moe-bf16")).expect("a fixture");
    let registry = Registry::collect().expect("a registry without duplicates");
    let options = LoadOptions::new(backend);
    let program = opened.plan(&registry, backend, device.info(), &options);
    let program = program.expect("a plan");
    let plan = program.plan_for(rows).expect("a bucket");
    plan.steps.iter().map(|s| s.key.layer.to_string()).collect()
}

#[test]
fn a_recurrent_mixer_takes_three_launches_for_one_row() {
    for backend in [cuda_sm86::BACKEND, "cuda_sm90"] {
        let layers = layers(backend, 1);
        let mixer =
            "linear+linear+causal_conv+causal_conv+causal_conv+gated_delta+rms_norm+silu_mul";
        let at = layers.iter().position(|l| l == mixer);
        let at = at.unwrap_or_else(|| panic!("{backend}: {layers:?}"));
        assert_eq!(layers[at - 1], "linear+linear+linear+linear", "{backend}");
        assert!(layers[at + 1].starts_with("linear+add"), "{backend}");
        let alone = ["causal_conv", "gated_delta", "rms_norm+silu_mul"];
        assert!(
            !layers.iter().any(|l| alone.contains(&l.as_str())),
            "{backend}: {layers:?}"
        );
    }
}

#[test]
fn several_rows_keep_gate_and_up_of_a_shared_expert_together() {
    for backend in [cuda_sm86::BACKEND, "cuda_sm90"] {
        let layers = layers(backend, 4);
        let count = |of: &str| layers.iter().filter(|l| *l == of).count();
        // One of four products in each of four mixers, none of a shared expert's.
        assert_eq!(count("linear+linear+linear+linear"), 4, "{layers:?}");
        assert_eq!(count("linear+linear+silu_mul"), 4, "{layers:?}");
    }
}
