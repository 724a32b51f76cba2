//! A key that ring 2 deals no case fails on a device. Which shapes a kernel takes needs
//! none: every key of both trees must meet a case.

use hal::Device;
use hal::cpu::CpuDevice;
use kernels as _;
use parity::kernel_gate::{Case, Cases, OpValue, Options, Oracle, run_against};
use registry::{OpenOptions, Registry};
use std::sync::Arc;

/// Nothing is computed: a kernel that takes a case fails to be prepared.
struct NoOracle;

impl Oracle for NoOracle {
    fn eval(&self, _: &Case) -> Result<Vec<Vec<OpValue>>, parity::kernel_gate::GateError> {
        Ok(Vec::new())
    }
}

fn every_key_is_dealt_a_case(backend: &str) {
    let device = CpuDevice::open(&OpenOptions::default().cpu()).expect("a CPU");
    let device: Arc<dyn Device> = Arc::new(device);
    let registry = Registry::collect().expect("a registry without duplicates");
    let options = Options {
        cases: Cases::Quick,
        ..Options::default()
    };
    let report = run_against(&registry, backend, device.as_ref(), &options, &NoOracle);
    let report = report.expect("cases can be dealt");
    assert!(!report.keys.is_empty(), "no key of {backend}");
    for key in &report.keys {
        println!("{} {} cases, {} refused", key.key, key.cases, key.refused());
        assert!(key.cases > 0, "{}: {:?}", key.key, key.refusals);
        let device = key.failures.iter().all(|f| f.starts_with("prepare: "));
        assert!(device, "{}: {:?}", key.key, key.failures);
    }
}

#[test]
fn ring_2_deals_every_key_a_case() {
    for backend in [cuda_sm86::BACKEND, "cuda_sm90"] {
        every_key_is_dealt_a_case(backend);
    }
}
