//! op: linear+linear+silu_mul, few rows of plain weights. See `common/gemv.cu`.

use crate::common::gemv::kernel;
use crate::common::launch::Plain;
use registry::patterns::GATE_UP;

static F32: Plain = kernel(&GATE_UP, &["f32"]);
static F16: Plain = kernel(&GATE_UP, &["f16"]);
static BF16: Plain = kernel(&GATE_UP, &["bf16"]);
registry::register!(F32, F16, BF16);
