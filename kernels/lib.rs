//! Facade over the kernel trees.
//!
//! inventory registers nothing for a crate that no code names, so each tree is
//! named here, once, and binaries link this crate instead of the trees.
use cpu_reference as _;
use cpu_simd as _;
use cuda_sm86 as _;
use cuda_sm90 as _;
use vulkan as _;
