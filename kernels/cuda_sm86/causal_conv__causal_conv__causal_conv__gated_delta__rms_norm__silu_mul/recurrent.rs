//! op: causal_conv+causal_conv+causal_conv+gated_delta+rms_norm+silu_mul of one row. See
//! `common/conv_delta.cu`.

use crate::common::conv_delta::kernel;
use crate::common::launch::Plain;
use registry::patterns::CONV_DELTA_GATED_NORM;

static F32: Plain = kernel(&CONV_DELTA_GATED_NORM, &["f32"]).with_rank(25);
registry::register!(F32);
