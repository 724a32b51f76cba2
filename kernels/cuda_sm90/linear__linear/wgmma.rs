//! op: linear+linear, many rows. See `common/gemm.cu`.

use crate::common::gemm::register_all;
use registry::patterns::LINEAR_PAIR;

register_all!(&LINEAR_PAIR, alone);
