//! The oracle itself, against a second implementation.

mod naive;

use naive::Naive;
use parity::kernel_gate::{Cases, KeyReport, ORACLE, Options, gate_kernel};
use registry::{OpenOptions, Registry, Scheme};

/// Reports of the oracle's keys. Block schemes differ in their decoders alone: a few
/// cases of each will do, or none.
fn gate(registry: &Registry, threads: usize, quick: bool, blocks: bool) -> Vec<KeyReport> {
    let backend = registry.backend(ORACLE).expect("the oracle is linked");
    let options = OpenOptions {
        threads: Some(threads),
        ..OpenOptions::default()
    };
    let device = backend.open_device(&options).expect("a CPU");
    let wanted = std::env::var("KERNEL_GATE").unwrap_or_default();
    let mut reports = Vec::new();
    for entry in registry.entries() {
        let schemes = entry.kernel.spec().quant.iter();
        let mut descs = schemes.filter_map(|q| Scheme::find(q)?.desc());
        let in_blocks = descs.any(|d| d.block > 1);
        let named = entry.key.to_string().contains(&wanted);
        if entry.key.backend != ORACLE || !named || (in_blocks && !blocks) {
            continue;
        }
        let options = Options {
            cases: match quick || in_blocks {
                true => Cases::Quick,
                false => Cases::All,
            },
            ..Options::default()
        };
        let report = gate_kernel(entry.kernel, device.as_ref(), &options, &Naive);
        reports.extend(report.expect("the gate runs"));
    }
    reports
}

#[test]
fn the_oracle_agrees_with_a_naive_f64_one() {
    let registry = Registry::collect().expect("a sound registry");
    let reports = gate(&registry, 2, false, true);
    assert!(!reports.is_empty(), "no keys were gated");
    for report in reports {
        println!("{report}");
        assert!(report.passed() && report.cases >= 12, "{report}");
    }
}

#[test]
fn the_oracles_bits_do_not_depend_on_threads() {
    let registry = Registry::collect().expect("a sound registry");
    let digests = |threads: usize| -> Vec<(String, u64)> {
        let reports = gate(&registry, threads, true, false).into_iter();
        reports.map(|r| (r.key.to_string(), r.digest)).collect()
    };
    assert_eq!(digests(1), digests(3));
}
