//! The gates: kernel by kernel and whole models against the CPU oracle.

pub mod kernel_gate;
pub mod model_gate;
pub mod stats;

// Links the trees: without it the registry is empty and every gate passes.
use kernels as _;
