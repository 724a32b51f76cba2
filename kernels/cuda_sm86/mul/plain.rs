//! op: mul. See `common/pointwise.cu`.

use crate::common::launch::Plain;
use crate::common::pointwise::of_two;
use registry::Pattern;

static F32: Plain = of_two(&Pattern::MUL);
registry::register!(F32);
