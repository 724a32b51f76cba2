//! mul / f32 / simd (cpu_simd)
//! op:        y = gate·up
//! shapes:    up, y [R, …]; gate as up, or [R, 1]
//! dtypes:    f32; exp within 2 ulp
//! partition: threads share runs of 256 elements
//! source:    arXiv:2002.05202; written here
//! parity:    1e-5

use crate::common::gated;
use crate::common::plumbing::SimdKernel;
use registry::Pattern;

static F32: SimdKernel = gated::kernel(&Pattern::MUL);
registry::register!(F32);
