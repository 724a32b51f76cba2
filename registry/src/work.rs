//! How much a use of a kernel moves and computes: what its time is held against.

use crate::layout::{ROW_MAJOR, WeightLayout, WeightShape};
use crate::problem::{Operand, OperandRole, OperandSrc, Problem, RowsFrom};
use graph::Op;

/// The batch of a step, as far as work depends on it: spans of equal size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepSize {
    /// Rows of all spans.
    pub rows: usize,
    /// Rows whose logits were asked for.
    pub logits: usize,
    pub spans: usize,
    /// Tokens that each span has in the cache before the step.
    pub depth: usize,
}

/// What must be moved between memory and kernel, each operand once, and what must
/// be computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    pub bytes: u64,
    /// Of matrix products, attention and recurrences, two for a multiply-add.
    pub flops: u64,
}

impl StepSize {
    fn count(&self, rows: RowsFrom) -> usize {
        match rows {
            RowsFrom::Fixed => 1,
            RowsFrom::Batch => self.rows,
            RowsFrom::Logits => self.logits,
        }
    }

    /// Rows of one span.
    fn span(&self) -> usize {
        self.rows.div_ceil(self.spans.max(1))
    }

    /// Cached tokens that a span's rows read, and that one row sees on average.
    fn visible(&self, window: Option<usize>) -> (usize, f64) {
        let rows = self.span();
        let mean = self.depth as f64 + (rows as f64 + 1.0) / 2.0;
        match window {
            Some(w) => ((self.depth + rows).min(w + rows - 1), mean.min(w as f64)),
            None => (self.depth + rows, mean),
        }
    }
}

impl Problem {
    /// Work of a step of that size, in the layouts of the operands.
    pub fn work(&self, size: &StepSize) -> Work {
        let operands = self.inputs.iter().chain(&self.outputs);
        let streamed: u64 = operands.map(|o| self.operand_bytes(o, size)).sum();
        let mut work = Work {
            bytes: streamed,
            flops: self.products(size.rows, size.logits),
        };
        for (i, op) in self.ops.iter().enumerate() {
            let more = self.cached_work(i, &op.op, size);
            work.bytes += more.bytes;
            work.flops += more.flops;
        }
        work
    }

    /// Operations of the matrix products for `rows` rows, two for a multiply-add.
    pub fn flops(&self, rows: usize) -> u64 {
        self.products(rows, rows)
    }

    fn products(&self, rows: usize, logits: usize) -> u64 {
        let outputs = &mut self.outputs.iter();
        let rows = match outputs.any(|o| o.rows == RowsFrom::Logits) {
            true => logits,
            false => rows,
        };
        let one = |(i, op): (usize, &crate::problem::ProblemOp)| -> u64 {
            let outs: usize = match &op.op {
                Op::Linear { out } => out.iter().product(),
                Op::ExpertLinear { .. } | Op::HeadLinear => op.shape.iter().skip(1).product(),
                _ => return 0,
            };
            let k = self.input(i, 1).map_or(0, |(_, w)| w.shape[1]);
            2 * rows as u64 * outs as u64 * k as u64
        };
        self.ops.iter().enumerate().map(one).sum()
    }

    fn operand_bytes(&self, o: &Operand, size: &StepSize) -> u64 {
        match o.role {
            // Counted with the ops that use them.
            OperandRole::Cache | OperandRole::State => 0,
            OperandRole::Activation => (size.count(o.rows) * o.row_len() * 4) as u64,
            OperandRole::Vector => o.shape.iter().product::<usize>() as u64 * 4,
            OperandRole::Matrix => {
                let (n, k) = (o.shape[0], o.shape[1]);
                let shape = WeightShape {
                    scheme: o.scheme,
                    n,
                    k,
                };
                let all = match o.layout {
                    ROW_MAJOR => shape.bytes(),
                    layout => WeightLayout::find(layout).and_then(|l| l.bytes(&shape)),
                };
                let share = self.touched(n, size);
                (all.unwrap_or(0) as f64 * share).round() as u64
            }
        }
    }

    /// The share of a matrix's `n` rows that a step reads: an embedding looks rows
    /// up, and only chosen experts are read (as many as random choices hit).
    fn touched(&self, n: usize, size: &StepSize) -> f64 {
        for op in &self.ops {
            match op.op {
                Op::Embed => return size.rows.min(n) as f64 / n.max(1) as f64,
                Op::ExpertLinear { experts } => {
                    let top_k = op.shape.get(1).copied().unwrap_or(1);
                    let missed = 1.0 - top_k as f64 / experts.max(1) as f64;
                    return 1.0 - missed.max(0.0).powi(size.rows as i32);
                }
                _ => {}
            }
        }
        1.0
    }

    /// What op `i` does with the caches and states.
    fn cached_work(&self, i: usize, op: &Op, size: &StepSize) -> Work {
        let shape = |slot: usize| -> &[usize] {
            match self.ops[i].inputs.get(slot) {
                Some(OperandSrc::Input(n)) => &self.inputs[*n].shape,
                Some(OperandSrc::Op(j)) => &self.ops[*j].shape,
                None => &[],
            }
        };
        let inner = |slot: usize| shape(slot).iter().skip(1).product::<usize>();
        let operand = |slot: usize| self.input(i, slot).map(|(_, o)| o);
        // Bytes of so many heads of so many elements each.
        let cells = |o: &Operand, heads: usize, dim: usize| {
            let element = o.scheme.row_bytes(1).unwrap_or(0);
            heads as u64 * (dim as u64 * element + o.scheme.scale_bytes() as u64)
        };
        let spans = size.spans.max(1);
        match op {
            Op::KvAppend | Op::LatentAppend => {
                let written = inner(0) + inner(1);
                let bytes = operand(2).and_then(|o| {
                    let dim = o.cache?.head_dim.max(1);
                    Some(cells(o, size.rows * (written / dim), dim))
                });
                Work {
                    bytes: bytes.unwrap_or(0),
                    flops: 0,
                }
            }
            Op::Attention(spec) => {
                let Some((view, o)) = operand(1).and_then(|o| Some((o.cache?, o))) else {
                    return Work::default();
                };
                let (read, seen) = size.visible(spec.window);
                Work {
                    bytes: cells(o, spans * read * view.kv_heads * 2, view.head_dim),
                    flops: (4.0 * size.rows as f64 * seen * inner(0) as f64) as u64,
                }
            }
            Op::LatentAttention { .. } => {
                let Some((view, o)) = operand(2).and_then(|o| Some((o.cache?, o))) else {
                    return Work::default();
                };
                let (read, seen) = size.visible(None);
                // Scores over both parts, values over the first.
                let dims = 2 * inner(0) + inner(1);
                Work {
                    bytes: cells(o, spans * read, view.head_dim),
                    flops: (2.0 * size.rows as f64 * seen * dims as f64) as u64,
                }
            }
            Op::CausalConv(_) | Op::GatedDelta(_) => {
                let states = self.ops[i].inputs.iter().filter_map(|s| match s {
                    OperandSrc::Input(n) => self.inputs[*n].state,
                    OperandSrc::Op(_) => None,
                });
                let len: usize = states.map(|s| s.len).sum();
                let steps = match op {
                    // Decay, kᵀS, update and qᵀS.
                    Op::GatedDelta(_) => 7 * len,
                    Op::CausalConv(c) => 2 * c.kernel * inner(0),
                    _ => 0,
                };
                Work {
                    bytes: (2 * spans * len * 4) as u64,
                    flops: (size.rows * steps) as u64,
                }
            }
            _ => Work::default(),
        }
    }
}
