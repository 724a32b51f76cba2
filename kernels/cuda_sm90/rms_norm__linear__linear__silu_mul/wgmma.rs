//! op: rms_norm+linear+linear+silu_mul, many rows. See `common/gemm.cu`.

use crate::common::gemm::register_all;
use registry::patterns::NORM_GATE_UP;

register_all!(&NORM_GATE_UP, normed);
