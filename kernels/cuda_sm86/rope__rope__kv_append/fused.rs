//! op: rope+rope+kv_append. See `common/rope_append.cuh`.

use crate::common::launch::Plain;
use crate::common::rope_append::{int8_kernel, kernel};
use graph::OpKind;
use registry::{Pattern, PatternOp, Src};

static PATTERN: Pattern = Pattern {
    ops: &[
        PatternOp {
            kind: OpKind::Rope,
            inputs: &[],
        },
        PatternOp {
            kind: OpKind::Rope,
            inputs: &[Src::Any, Src::Same(0, 1)],
        },
        PatternOp {
            kind: OpKind::KvAppend,
            inputs: &[Src::Op(1)],
        },
    ],
    outputs: &[0, 2],
};

static F32: Plain = kernel(&PATTERN, &["f32"]);
static F16: Plain = kernel(&PATTERN, &["f16"]);
static BF16: Plain = kernel(&PATTERN, &["bf16"]);
static INT8: Plain = int8_kernel(&PATTERN);
registry::register!(F32, F16, BF16, INT8);
