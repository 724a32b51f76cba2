//! op: linear+add, many rows. See `common/gemm.cu`.

use crate::common::gemm::register_all;
use cuda_sm86::common::patterns::ADDED;

register_all!(&ADDED, alone);
