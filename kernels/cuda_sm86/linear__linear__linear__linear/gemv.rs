//! op: linear+linear+linear+linear, few rows of plain weights. See `common/gemv.cu`.

use crate::common::gemv::kernel;
use crate::common::launch::Plain;
use registry::patterns::QKV_GATE;

static F32: Plain = kernel(&QKV_GATE, &["f32"]);
static F16: Plain = kernel(&QKV_GATE, &["f16"]);
static BF16: Plain = kernel(&QKV_GATE, &["bf16"]);
registry::register!(F32, F16, BF16);
