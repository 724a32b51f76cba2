//! op: linear+linear, many rows. See `common/gemm.cu`.

use crate::common::gemm::register_all;
use cuda_sm86::common::patterns::TWO;

register_all!(&TWO, alone);
