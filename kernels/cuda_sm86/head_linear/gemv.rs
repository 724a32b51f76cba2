//! op: head_linear of plain weights. See `common/stacked.rs`.

use crate::common::launch::Plain;
use crate::common::stacked::of_plain;
use registry::Pattern;

static F32: Plain = of_plain(&Pattern::HEAD_LINEAR, &["f32"]);
static F16: Plain = of_plain(&Pattern::HEAD_LINEAR, &["f16"]);
static BF16: Plain = of_plain(&Pattern::HEAD_LINEAR, &["bf16"]);
registry::register!(F32, F16, BF16);
