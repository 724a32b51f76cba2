//! op: silu_mul. See `common/gated.comp`.

use crate::common::gated;
use crate::common::launch::Plain;
use registry::Pattern;

static F32: Plain = gated::kernel(&Pattern::SILU_MUL);
registry::register!(F32);
