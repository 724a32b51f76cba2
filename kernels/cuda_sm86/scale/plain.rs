//! op: scale. See `common/pointwise.cu`.

use crate::common::launch::Plain;
use crate::common::pointwise::of_one;
use registry::Pattern;

static F32: Plain = of_one(&Pattern::SCALE);
registry::register!(F32);
