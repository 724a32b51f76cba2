//! op: linear+add, few rows of plain weights. See `common/gemv.cu`.

use crate::common::gemv::kernel;
use crate::common::launch::Plain;
use crate::common::patterns::ADDED;

static F32: Plain = kernel(&ADDED, &["f32"]).with_rank(30);
static F16: Plain = kernel(&ADDED, &["f16"]).with_rank(30);
static BF16: Plain = kernel(&ADDED, &["bf16"]).with_rank(30);
registry::register!(F32, F16, BF16);
