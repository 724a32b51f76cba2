//! op: rms_norm+linear, few rows of plain weights, one row. See `common/gemv.cu`.

use crate::common::gemv::normed;
use crate::common::launch::Plain;
use crate::common::patterns::NORM_ONE;

static F32: Plain = normed(&NORM_ONE, &["f32"]);
static F16: Plain = normed(&NORM_ONE, &["f16"]);
static BF16: Plain = normed(&NORM_ONE, &["bf16"]);
registry::register!(F32, F16, BF16);
