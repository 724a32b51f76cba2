//! op: rope+rope+kv_append+attention, one row. See `common/rope_attend.comp`.

use crate::common::launch::Plain;
use crate::common::rope_attend::kernel;
use registry::patterns::ROPE_ATTEND;

static F16: Plain = kernel(&ROPE_ATTEND, &["f16"]);
static INT8: Plain = kernel(&ROPE_ATTEND, &["int8_kv"]);
registry::register!(F16, INT8);
