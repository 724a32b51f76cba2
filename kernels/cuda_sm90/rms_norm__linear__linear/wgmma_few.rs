//! op: rms_norm+linear+linear, up to 64 rows of block-quantised weights. See `common/few.cu`.

use crate::common::few::normed;
use cuda_sm86::common::launch::Plain;
use registry::patterns::NORM_LINEAR_PAIR;

static Q4_K: Plain = normed(&NORM_LINEAR_PAIR, &["q4_k"]);
static Q5_K: Plain = normed(&NORM_LINEAR_PAIR, &["q5_k"]);
registry::register!(Q4_K, Q5_K);
