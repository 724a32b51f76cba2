//! op: linear+linear+causal_conv+causal_conv+causal_conv+gated_delta+rms_norm+silu_mul of
//! one row: a recurrent mixer but for its large products. See `common/conv_delta.cu`.

use crate::common::conv_delta::kernel;
use crate::common::launch::Plain;
use registry::patterns::DELTA_NET;

static F32: Plain = kernel(&DELTA_NET, &["f32"]).with_rank(30);
static F16: Plain = kernel(&DELTA_NET, &["f16"]).with_rank(30);
static BF16: Plain = kernel(&DELTA_NET, &["bf16"]).with_rank(30);
registry::register!(F32, F16, BF16);
