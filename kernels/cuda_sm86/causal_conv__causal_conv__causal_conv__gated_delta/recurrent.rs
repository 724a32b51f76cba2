//! op: causal_conv+causal_conv+causal_conv+gated_delta: q, k and v of few rows, and
//! the rule. See `common/conv_delta.cu`.

use crate::common::conv_delta::kernel;
use crate::common::launch::Plain;
use registry::patterns::CONV_DELTA;

static F32: Plain = kernel(&CONV_DELTA, &["f32"]).with_rank(20);
registry::register!(F32);
