//! op: causal_conv+causal_conv+causal_conv+gated_delta+rms_norm+silu_mul: q,
//! k and v of one row, the rule, its norm and gate.
//! See `common/conv_delta.comp`.

use crate::common::conv_delta::kernel;
use crate::common::launch::Plain;
use registry::patterns::CONV_DELTA_GATED_NORM;

static F32: Plain = kernel(&CONV_DELTA_GATED_NORM, 25);
registry::register!(F32);
