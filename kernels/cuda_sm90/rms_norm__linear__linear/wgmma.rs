//! op: rms_norm+linear+linear, many rows. See `common/gemm.cu`.

use crate::common::gemm::register_all;
use registry::patterns::NORM_LINEAR_PAIR;

register_all!(&NORM_LINEAR_PAIR, normed);
