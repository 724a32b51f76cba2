//! Ring 2 on the first Vulkan device, under validation.

mod common;

use hal::vulkan::VulkanOptions;
use hal::{Device as _, DeviceKind};
use kernels as _;
use parity::kernel_gate::{Cases, Options, Part, run};
use registry::Registry;

fn gate(options: VulkanOptions, part: Part, filters: &[&str]) {
    let Some(device) = common::device(options) else {
        return;
    };
    let registry = Registry::collect().expect("a registry without duplicates");
    let cases = match device.info().kind {
        DeviceKind::Software => Cases::FewPipelines,
        _ => Cases::Quick,
    };
    for filter in filters {
        let options = Options {
            cases,
            part,
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

// Two tests, so that two processors are busy.

#[test]
fn every_primitive_agrees_with_the_oracle() {
    // As in the other gates: part of a key, to look at one kernel alone.
    match std::env::var("KERNEL_GATE") {
        Ok(named) => gate(VulkanOptions::default(), Part::Whole, &[&named]),
        Err(_) => gate(VulkanOptions::default(), Part::Primitives, &["vulkan/"]),
    }
}

#[test]
fn every_composite_agrees_with_the_oracle() {
    if std::env::var_os("KERNEL_GATE").is_none() {
        gate(VulkanOptions::default(), Part::Composites, &["vulkan/"]);
    }
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
    gate(options, Part::Whole, &filters);
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
        Part::Whole,
        &[
            "/linear/bf16/",
            "/linear/f32/",
            "/linear+linear+silu_mul/bf16/",
            "/embed/",
        ],
    );
}
