//! op: rope+rope+kv_append+attention, one row. See `common/rope_attend.comp`.

use crate::common::launch::Plain;
use crate::common::rope_attend::kernel;
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
        PatternOp {
            kind: OpKind::Attention,
            inputs: &[Src::Op(0), Src::Op(2)],
        },
    ],
    outputs: &[3, 2],
};

static F16: Plain = kernel(&PATTERN, &["f16"]);
static INT8: Plain = kernel(&PATTERN, &["int8_kv"]);
registry::register!(F16, INT8);
