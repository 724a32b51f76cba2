//! op: linear+add, up to 64 rows of block-quantised weights. See `common/few.cu`.

use crate::common::few::kernel;
use cuda_sm86::common::launch::Plain;
use registry::patterns::LINEAR_ADD;

static Q4_K: Plain = kernel(&LINEAR_ADD, &["q4_k"]);
static Q5_K: Plain = kernel(&LINEAR_ADD, &["q5_k"]);
registry::register!(Q4_K, Q5_K);
