//! op: linear+linear, few rows of plain weights. See `common/gemv.cu`.

use crate::common::gemv::kernel;
use crate::common::launch::Plain;
use registry::patterns::LINEAR_PAIR;

static F32: Plain = kernel(&LINEAR_PAIR, &["f32"]);
static F16: Plain = kernel(&LINEAR_PAIR, &["f16"]);
static BF16: Plain = kernel(&LINEAR_PAIR, &["bf16"]);
registry::register!(F32, F16, BF16);
