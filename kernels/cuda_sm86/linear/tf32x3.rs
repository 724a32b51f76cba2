//! op: linear, many rows and few columns of f32 weights. See `common/tf32x3.cu`.

use crate::common::launch::Plain;
use crate::common::tf32x3::kernel;

/// With more columns f32 is as quick on cards whose tensor cores do tf32 at its rate.
static F32: Plain = kernel::<64>();
registry::register!(F32);
