//! op: rms_norm+linear+linear, many rows. See `common/gemm.cu`.

use crate::common::gemm::register_all;
use cuda_sm86::common::patterns::NORM_TWO;

register_all!(&NORM_TWO, normed);
