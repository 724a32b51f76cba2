//! op: rms_norm+linear+linear+linear, up to 64 rows of block-quantised weights. See `common/few.cu`.

use crate::common::few::normed;
use cuda_sm86::common::launch::Plain;
use cuda_sm86::common::patterns::NORM_THREE;

static Q4_K: Plain = normed(&NORM_THREE, &["q4_k"]);
static Q5_K: Plain = normed(&NORM_THREE, &["q5_k"]);
registry::register!(Q4_K, Q5_K);
