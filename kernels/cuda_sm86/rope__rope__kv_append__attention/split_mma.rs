//! op: rope+rope+kv_append+attention, one row. See `common/rope_attend.cu`.

use crate::common::launch::Plain;
use crate::common::split_mma::{fresh, int8_fresh};
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

static F16: Plain = fresh(&PATTERN);
static INT8: Plain = int8_fresh(&PATTERN);
registry::register!(F16, INT8);
