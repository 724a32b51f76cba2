//! op: rms_norm+rms_norm+rope+rope+kv_append. See `common/rope_append.cuh`.

use crate::common::launch::Plain;
use crate::common::rope_append::{int8_kernel, kernel};
use registry::patterns::QK_NORM_ROPE_APPEND;

static F32: Plain = kernel(&QK_NORM_ROPE_APPEND, &["f32"]);
static F16: Plain = kernel(&QK_NORM_ROPE_APPEND, &["f16"]);
static BF16: Plain = kernel(&QK_NORM_ROPE_APPEND, &["bf16"]);
static INT8: Plain = int8_kernel(&QK_NORM_ROPE_APPEND);
registry::register!(F32, F16, BF16, INT8);
