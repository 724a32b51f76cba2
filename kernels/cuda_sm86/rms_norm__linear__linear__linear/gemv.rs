//! op: rms_norm+linear+linear+linear, few rows of plain weights, one row. See `common/gemv.cu`.

use crate::common::gemv::normed;
use crate::common::launch::Plain;
use crate::common::patterns::NORM_THREE;

static F32: Plain = normed(&NORM_THREE, &["f32"]);
static F16: Plain = normed(&NORM_THREE, &["f16"]);
static BF16: Plain = normed(&NORM_THREE, &["bf16"]);
registry::register!(F32, F16, BF16);
