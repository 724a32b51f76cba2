//! op: linear, few rows of plain weights. See `common/gemv.cu`.

use crate::common::gemv::kernel;
use crate::common::launch::Plain;
use registry::Pattern;

static F32: Plain = kernel(&Pattern::LINEAR, &["f32"]);
static F16: Plain = kernel(&Pattern::LINEAR, &["f16"]);
static BF16: Plain = kernel(&Pattern::LINEAR, &["bf16"]);
registry::register!(F32, F16, BF16);
