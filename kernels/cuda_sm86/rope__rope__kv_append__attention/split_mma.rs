//! op: rope+rope+kv_append+attention, one row. See `common/rope_attend.cu`.

use crate::common::launch::Plain;
use crate::common::split_mma::{fresh, int8_fresh};
use registry::patterns::ROPE_ATTEND;

static F16: Plain = fresh(&ROPE_ATTEND);
static INT8: Plain = int8_fresh(&ROPE_ATTEND);
registry::register!(F16, INT8);
