//! The gates: kernel by kernel and whole models against the CPU oracle.
