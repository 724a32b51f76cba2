//! op: linear+add, many rows. See `common/gemm.cu`.

use crate::common::gemm::register_all;
use registry::patterns::LINEAR_ADD;

register_all!(&LINEAR_ADD, alone);
