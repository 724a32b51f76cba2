//! op: linear+linear+silu_mul, up to 64 rows of block-quantised weights. See `common/few.cu`.

use crate::common::few::kernel;
use cuda_sm86::common::launch::Plain;
use registry::patterns::GATE_UP;

static Q4_K: Plain = kernel(&GATE_UP, &["q4_k"]);
static Q5_K: Plain = kernel(&GATE_UP, &["q5_k"]);
registry::register!(Q4_K, Q5_K);
