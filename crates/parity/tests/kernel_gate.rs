//! Ring 2 over every tree that this machine can run.
//!
//! CPU trees run at each instruction-set level that the CPU has, GPU trees on
//! the device their backend picks first, unless that is a software one: there the
//! tests of the tree itself (`kernels/vulkan/tests/gate.rs`) do the same under
//! validation. `KERNEL_GATE=<text>` keeps the keys that
//! contain the text, `KERNEL_GATE_FULL=1` gives GPU trees all cases too.

use hal::cpu::{IsaLevel, detect};
use hal::{DeviceKind, HalError};
use parity::kernel_gate::{Cases, ChainOracle, ORACLE, Options, Report, gate_problem, run};
use registry::{Backend, OpenOptions, Registry};
use runtime::{LoadOptions, Opened};
use std::collections::BTreeSet;
use std::path::Path;

fn options(quick: bool) -> Options {
    Options {
        cases: if quick { Cases::Quick } else { Cases::All },
        filter: std::env::var("KERNEL_GATE").ok(),
        ..Options::default()
    }
}

fn gate(registry: &Registry, backend: &Backend, open: &OpenOptions, quick: bool) -> Option<Report> {
    let device = match backend.open_device(open) {
        Ok(device) => device,
        Err(e) => {
            // Where the project is tested every tree has a device, except those whose
            // drivers emulate none.
            let absent = matches!(e, HalError::NoDriver { .. } | HalError::NoDevice { .. });
            assert!(
                std::env::var_os("CI").is_none() || (backend.hardware_only && absent),
                "{}: no device under CI: {e}",
                backend.name
            );
            println!("skipped {}: {e}", backend.name);
            return None;
        }
    };
    if device.info().kind == DeviceKind::Software {
        println!(
            "{}: left to its own tests on {}",
            backend.name,
            device.info().name
        );
        return None;
    }
    let report = run(registry, backend.name, device, &options(quick)).expect("the gate runs");
    println!("{report}\n");
    Some(report)
}

fn check(reports: &[Report]) {
    let filtered = std::env::var_os("KERNEL_GATE").is_some();
    let failed: Vec<String> = (reports.iter())
        .flat_map(|r| r.failures().map(move |k| format!("{}\n{k}", r.device)))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    for report in reports {
        assert!(
            filtered || report.passed(),
            "{} has no kernels",
            report.backend
        );
    }
}

fn trees(registry: &Registry, cpu: bool) -> Vec<&'static Backend> {
    let all = registry.backends().iter().copied();
    all.filter(|b| b.name != ORACLE && (b.api == "cpu") == cpu)
        .collect()
}

#[test]
fn cpu_trees_match_the_oracle_at_every_isa_level() {
    let registry = Registry::collect().expect("a sound registry");
    let mut reports = Vec::new();
    for backend in trees(&registry, true) {
        for isa in IsaLevel::ALL.iter().filter(|l| **l <= detect()) {
            let open = OpenOptions {
                isa: Some(*isa),
                ..OpenOptions::default()
            };
            let quick = *isa != detect() && *isa != IsaLevel::Avx2;
            reports.extend(gate(&registry, backend, &open, quick));
        }
    }
    assert!(!reports.is_empty(), "no tree was gated");
    check(&reports);
}

#[test]
fn cpu_trees_give_the_same_bits_for_any_number_of_threads() {
    let registry = Registry::collect().expect("a sound registry");
    for backend in trees(&registry, true) {
        let digests: Vec<Vec<_>> = [1, 3]
            .into_iter()
            .filter_map(|threads| {
                let open = OpenOptions {
                    threads: Some(threads),
                    ..OpenOptions::default()
                };
                let report = gate(&registry, backend, &open, true)?;
                let keys = report.keys.into_iter();
                Some(keys.map(|k| (k.key, k.layout, k.digest)).collect())
            })
            .collect();
        assert_eq!(digests[0], digests[1], "{}", backend.name);
    }
}

#[test]
fn gpu_trees_match_the_oracle() {
    let registry = Registry::collect().expect("a sound registry");
    let quick = std::env::var_os("KERNEL_GATE_FULL").is_none();
    let reports: Vec<_> = (trees(&registry, false).into_iter())
        .filter_map(|b| gate(&registry, b, &OpenOptions::default(), quick))
        .collect();
    check(&reports);
}

/// Models of every kind of cache, mixer and feed-forward part.
const MODELS: [&str; 8] = [
    "ferris-9m",
    "ferris-moe-2.7m",
    "qwen3_5_moe-bf16",
    "qwen3_next-bf16",
    "deepseek_v3-bf16",
    "gpt_oss-mxfp4",
    "gemma2-f16",
    "lfm2-bias-f16",
];

/// Every kernel of every plan at the model's own sizes. The demonstration model must
/// run on every tree; the oracle runs all models, and so is compared with itself.
#[test]
fn planned_kernels_hold_at_a_models_own_sizes() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models");
    let registry = Registry::collect().expect("a sound registry");
    let oracle = ChainOracle::open(&registry).expect("a CPU");
    for backend in registry.backends().iter().filter(|b| b.api == "cpu") {
        let device = backend.open_device(&OpenOptions::default()).expect("a CPU");
        let options = LoadOptions::new(backend.name);
        for name in MODELS {
            let opened =
                Opened::open(&fixtures.join(name)).expect("the model is in the repository");
            let program = match opened.plan(&registry, backend.name, device.info(), &options) {
                Ok(program) => program,
                Err(e) if name != MODELS[0] && backend.name != ORACLE => {
                    println!("{name} on {}: {e}", backend.name);
                    continue;
                }
                Err(e) => panic!("{name} on {}: {e}", backend.name),
            };
            let mut seen = BTreeSet::new();
            for step in program.plans.iter().flat_map(|p| &p.steps) {
                let problem = &step.problem;
                let (ops, ins) = (&problem.ops, &problem.inputs);
                if !seen.insert(format!("{} {:?} {ops:?} {ins:?}", step.key, problem.rows)) {
                    continue;
                }
                let report = gate_problem(step.kernel, problem, device.as_ref(), &oracle, 1);
                let report = report.expect("the gate runs");
                assert!(report.passed() && report.cases == 1, "{name}: {report}");
            }
            let uses = seen.len();
            assert!(uses > 20, "{name} has only {uses} uses on {}", backend.name);
        }
    }
}
