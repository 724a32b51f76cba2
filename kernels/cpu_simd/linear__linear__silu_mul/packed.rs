//! linear+linear+silu_mul / f32, f16, bf16 / packed, bf16_dot, amx (cpu_simd)
//! op:        y = silu(x·Gᵀ)·(x·Uᵀ)
//! shapes:    x [R, K]; G, U [N, K] in panels; y [R, N]
//! dtypes:    packed: activations f32; bf16_dot, amx: activations rounded to
//!            bf16. All sums in f32.
//! partition: threads share (block of rows, one or two panels); see
//!            common/matmul.rs
//! source:    written here
//! parity:    5e-5 (packed), 1e-4 (bf16 activations)

use graph::{Activation, OpKind};
use registry::{Pattern, PatternOp, Src};

pub(super) static PATTERN: Pattern = Pattern {
    ops: &[
        PatternOp {
            kind: OpKind::Linear,
            inputs: &[],
        },
        PatternOp {
            kind: OpKind::Linear,
            inputs: &[Src::Same(0, 0)],
        },
        PatternOp {
            kind: OpKind::GatedMul(Activation::Silu),
            inputs: &[Src::Op(0), Src::Op(1)],
        },
    ],
    outputs: &[2],
};

crate::common::matmul_kernels::matmul_kernels!(&PATTERN, rank 50);
