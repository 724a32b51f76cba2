//! op: causal_conv+causal_conv+causal_conv+gated_delta: q, k and v of one row,
//! and the rule.
//! See `common/conv_delta.comp`.

use crate::common::conv_delta::kernel;
use crate::common::launch::Plain;
use registry::patterns::CONV_DELTA;

static F32: Plain = kernel(&CONV_DELTA, 20);
registry::register!(F32);
