//! op: linear+linear+linear, up to 64 rows of block-quantised weights. See `common/few.cu`.

use crate::common::few::kernel;
use cuda_sm86::common::launch::Plain;
use registry::patterns::QKV;

static Q4_K: Plain = kernel(&QKV, &["q4_k"]);
static Q5_K: Plain = kernel(&QKV, &["q5_k"]);
registry::register!(Q4_K, Q5_K);
