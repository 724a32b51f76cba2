//! op: rms_norm+linear+linear+silu_mul, many rows. See `common/gemm.cu`.

use crate::common::gemm::register_all;
use cuda_sm86::common::patterns::NORM_GATED;

register_all!(&NORM_GATED, normed);
