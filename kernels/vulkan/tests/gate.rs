//! Ring 2 on the first Vulkan device, under validation.

mod common;

use hal::vulkan::VulkanOptions;
use kernels as _;
use parity::kernel_gate::{Cases, Options, run};
use registry::Registry;

fn gate(options: VulkanOptions, filters: &[&str]) {
    let Some(device) = common::device(options) else {
        return;
    };
    let registry = Registry::collect().expect("a registry without duplicates");
    for filter in filters {
        let options = Options {
            cases: Cases::FewPipelines,
            filter: Some((*filter).into()),
        };
        let report = run(&registry, vulkan::BACKEND, device.clone(), &options).expect("a gate");
        println!("{report}");
        assert!(report.passed(), "{report}");
    }
    assert_eq!(device.validation_messages(), Vec::<String>::new());
    let log = device.validation().expect("validation runs");
    drop(device);
    assert_eq!(
        log.messages(),
        Vec::<String>::new(),
        "after the device is gone"
    );
}

#[test]
fn every_kernel_agrees_with_the_oracle() {
    // As in the other gates: part of a key, to look at one kernel alone.
    let part = std::env::var("KERNEL_GATE").unwrap_or_else(|_| "vulkan/".into());
    gate(VulkanOptions::default(), &[&part]);
}

/// What a device that is no CPU does: reductions over several subgroups, and
/// transfers through staging memory.
#[test]
fn reductions_over_several_subgroups_agree_too() {
    let options = VulkanOptions {
        staging: true,
        reduce_lanes: Some(64),
        ..VulkanOptions::default()
    };
    let filters = [
        "rms_norm/",
        "/attention/",
        "/argmax/",
        "kv_append/",
        "/rope+rope+kv_append+attention/f16",
    ];
    gate(options, &filters);
}

/// Matrices larger than a binding are multiplied part by part.
#[test]
fn matrices_larger_than_a_binding_agree_too() {
    let options = VulkanOptions {
        matrix_range: Some(8 << 10),
        ..VulkanOptions::default()
    };
    gate(
        options,
        &[
            "/linear/bf16/",
            "/linear/f32/",
            "/linear+linear+silu_mul/bf16/",
            "/embed/",
        ],
    );
}
