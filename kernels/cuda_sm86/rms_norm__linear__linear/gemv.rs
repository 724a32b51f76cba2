//! op: rms_norm+linear+linear, few rows of plain weights, one row. See `common/gemv.cu`.

use crate::common::gemv::normed;
use crate::common::launch::Plain;
use registry::patterns::NORM_LINEAR_PAIR;

static F32: Plain = normed(&NORM_LINEAR_PAIR, &["f32"]);
static F16: Plain = normed(&NORM_LINEAR_PAIR, &["f16"]);
static BF16: Plain = normed(&NORM_LINEAR_PAIR, &["bf16"]);
registry::register!(F32, F16, BF16);
