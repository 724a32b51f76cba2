//! op: linear+linear+silu_mul, few rows of plain weights. See `common/gemv.cu`.

use crate::common::gemv::kernel;
use crate::common::launch::Plain;
use crate::common::patterns::GATED;

static F32: Plain = kernel(&GATED, &["f32"]);
static F16: Plain = kernel(&GATED, &["f16"]);
static BF16: Plain = kernel(&GATED, &["bf16"]);
registry::register!(F32, F16, BF16);
