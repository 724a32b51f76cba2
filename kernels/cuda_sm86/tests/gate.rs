//! Ring 2 on the first CUDA device; without one the test says so and passes.

use hal::cuda::{CudaDevice, probe};
use kernels as _;
use parity::kernel_gate::{Cases, Options, run};
use registry::Registry;
use std::sync::Arc;

#[test]
fn every_kernel_agrees_with_the_oracle() {
    let opened = probe(86).and_then(|all| CudaDevice::open(all.first().map_or(0, |d| d.index)));
    let device = match opened {
        Ok(device) => Arc::new(device),
        Err(e) => {
            eprintln!("skipped: {e}");
            return;
        }
    };
    let registry = Registry::collect().expect("a registry without duplicates");
    let options = Options {
        cases: Cases::Quick,
        filter: Some("cuda_sm86/".into()),
        ..Options::default()
    };
    let report = run(&registry, cuda_sm86::BACKEND, device, &options).expect("a gate");
    println!("{report}");
    assert!(report.passed(), "{report}");
}
