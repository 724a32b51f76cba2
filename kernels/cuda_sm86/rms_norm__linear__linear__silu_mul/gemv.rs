//! op: rms_norm+linear+linear+silu_mul, few rows of plain weights, one row. See `common/gemv.cu`.

use crate::common::gemv::normed;
use crate::common::launch::Plain;
use registry::patterns::NORM_GATE_UP;

static F32: Plain = normed(&NORM_GATE_UP, &["f32"]);
static F16: Plain = normed(&NORM_GATE_UP, &["f16"]);
static BF16: Plain = normed(&NORM_GATE_UP, &["bf16"]);
registry::register!(F32, F16, BF16);
