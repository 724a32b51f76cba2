//! op: linear, many rows. See `common/gemm.cu`.

use crate::common::gemm::register_all;
use registry::Pattern;

register_all!(&Pattern::LINEAR, alone);
