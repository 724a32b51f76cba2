//! The gates: kernel by kernel and whole models against the CPU oracle.

pub mod kernel_gate;
pub mod model_gate;
pub mod stats;
