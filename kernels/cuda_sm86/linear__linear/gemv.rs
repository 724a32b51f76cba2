//! op: linear+linear, few rows of plain weights. See `common/gemv.cu`.

use crate::common::gemv::kernel;
use crate::common::launch::Plain;
use crate::common::patterns::TWO;

static F32: Plain = kernel(&TWO, &["f32"]);
static F16: Plain = kernel(&TWO, &["f16"]);
static BF16: Plain = kernel(&TWO, &["bf16"]);
registry::register!(F32, F16, BF16);
