//! op: rms_norm+linear+linear+silu_mul, few rows of plain weights, one row. See `common/gemv.cu`.

use crate::common::gemv::normed;
use crate::common::launch::Plain;
use crate::common::patterns::NORM_GATED;

static F32: Plain = normed(&NORM_GATED, &["f32"]);
static F16: Plain = normed(&NORM_GATED, &["f16"]);
static BF16: Plain = normed(&NORM_GATED, &["bf16"]);
registry::register!(F32, F16, BF16);
