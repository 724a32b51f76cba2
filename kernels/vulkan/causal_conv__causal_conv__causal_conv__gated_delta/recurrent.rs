//! op: causal_conv+causal_conv+causal_conv+gated_delta: q, k and v of one row,
//! and the rule.
//! See `common/conv_delta.comp`.

use crate::common::conv_delta::{RULE, kernel};
use crate::common::launch::Plain;

static F32: Plain = kernel(&RULE, 20);
registry::register!(F32);
