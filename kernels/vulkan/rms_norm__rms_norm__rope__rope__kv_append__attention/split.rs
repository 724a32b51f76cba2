//! op: rms_norm+rms_norm+rope+rope+kv_append+attention, one row. See `common/rope_attend.comp`.

use crate::common::launch::Plain;
use crate::common::rope_attend::kernel;
use registry::patterns::QK_NORM_ROPE_ATTEND;

static F16: Plain = kernel(&QK_NORM_ROPE_ATTEND, &["f16"]);
static INT8: Plain = kernel(&QK_NORM_ROPE_ATTEND, &["int8_kv"]);
registry::register!(F16, INT8);
