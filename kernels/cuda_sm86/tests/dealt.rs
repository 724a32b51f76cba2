//! A key that ring 2 deals no case fails on a device: every key of int8_kv, of the schemes
//! of `quant_blocks.cuh` and of rotate must meet one. Which shapes a kernel takes needs no device.

use hal::Device;
use hal::cpu::CpuDevice;
use kernels as _;
use parity::kernel_gate::{Case, OpValue, Options, Oracle, run_against};
use registry::{OpenOptions, Registry};
use std::sync::Arc;

/// Nothing is computed: a kernel that takes a case fails to be prepared.
struct NoOracle;

impl Oracle for NoOracle {
    fn eval(&self, _: &Case) -> Result<Vec<Vec<OpValue>>, parity::kernel_gate::GateError> {
        Ok(Vec::new())
    }
}

/// Keys that have `part` in their name, of a tree and its parents, each with a case.
fn every_key_is_dealt_a_case(backend: &str, part: &str) {
    let device = CpuDevice::open(&OpenOptions::default().cpu()).expect("a CPU");
    let device: Arc<dyn Device> = Arc::new(device);
    let registry = Registry::collect().expect("a registry without duplicates");
    let options = Options {
        filter: Some(part.into()),
        ..Options::default()
    };
    let report = run_against(&registry, backend, device.as_ref(), &options, &NoOracle);
    let report = report.expect("cases can be dealt");
    assert!(!report.keys.is_empty(), "no key of {part}");
    for key in &report.keys {
        println!("{} {} cases, {} refused", key.key, key.cases, key.refused());
        assert!(key.cases > 0, "{}: {:?}", key.key, key.refusals);
        let device = key.failures.iter().all(|f| f.starts_with("prepare: "));
        assert!(device, "{}: {:?}", key.key, key.failures);
    }
}

#[test]
fn ring_2_deals_every_int8_kv_key_a_case() {
    every_key_is_dealt_a_case(cuda_sm86::BACKEND, "int8_kv");
}

#[test]
fn ring_2_deals_every_key_of_the_further_schemes_a_case() {
    for backend in [cuda_sm86::BACKEND, "cuda_sm90"] {
        for scheme in cuda_sm86::common::unpacked::SCHEMES {
            every_key_is_dealt_a_case(backend, &format!("/{scheme}/"));
        }
    }
    every_key_is_dealt_a_case(cuda_sm86::BACKEND, "rotate/");
}
