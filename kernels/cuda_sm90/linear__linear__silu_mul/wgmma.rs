//! op: linear+linear+silu_mul, many rows. See `common/gemm.cu`.

use crate::common::gemm::register_all;
use registry::patterns::GATE_UP;

register_all!(&GATE_UP, alone);
