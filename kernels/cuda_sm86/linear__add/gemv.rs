//! op: linear+add, few rows of plain weights. See `common/gemv.cu`.

use crate::common::gemv::kernel;
use crate::common::launch::Plain;
use registry::patterns::LINEAR_ADD;

static F32: Plain = kernel(&LINEAR_ADD, &["f32"]).with_rank(30);
static F16: Plain = kernel(&LINEAR_ADD, &["f16"]).with_rank(30);
static BF16: Plain = kernel(&LINEAR_ADD, &["bf16"]).with_rank(30);
registry::register!(F32, F16, BF16);
