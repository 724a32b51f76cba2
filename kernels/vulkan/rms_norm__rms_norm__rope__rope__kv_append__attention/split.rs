//! op: rms_norm+rms_norm+rope+rope+kv_append+attention, one row. See `common/rope_attend.comp`.

use crate::common::launch::Plain;
use crate::common::rope_attend::kernel;
use graph::OpKind;
use registry::{Pattern, PatternOp, Src};

static PATTERN: Pattern = Pattern {
    ops: &[
        PatternOp {
            kind: OpKind::RmsNorm,
            inputs: &[],
        },
        PatternOp {
            kind: OpKind::RmsNorm,
            inputs: &[],
        },
        PatternOp {
            kind: OpKind::Rope,
            inputs: &[Src::Op(0)],
        },
        PatternOp {
            kind: OpKind::Rope,
            inputs: &[Src::Op(1), Src::Same(2, 1)],
        },
        PatternOp {
            kind: OpKind::KvAppend,
            inputs: &[Src::Op(3)],
        },
        PatternOp {
            kind: OpKind::Attention,
            inputs: &[Src::Op(2), Src::Op(4)],
        },
    ],
    outputs: &[5, 4],
};

static F16: Plain = kernel(&PATTERN, &["f16"]);
static INT8: Plain = kernel(&PATTERN, &["int8_kv"]);
registry::register!(F16, INT8);
