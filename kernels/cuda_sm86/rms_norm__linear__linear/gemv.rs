//! op: rms_norm+linear+linear, few rows of plain weights, one row. See `common/gemv.cu`.

use crate::common::gemv::normed;
use crate::common::launch::Plain;
use crate::common::patterns::NORM_TWO;

static F32: Plain = normed(&NORM_TWO, &["f32"]);
static F16: Plain = normed(&NORM_TWO, &["f16"]);
static BF16: Plain = normed(&NORM_TWO, &["bf16"]);
registry::register!(F32, F16, BF16);
