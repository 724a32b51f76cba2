//! embed / f32, f16, bf16 / simd (cpu_simd)
//! op:        x[t] = table[token_id[t]]
//! shapes:    table [V, H]; x [T, H]
//! dtypes:    the table's scheme in, f32 out, exact
//! partition: threads share runs of 64 elements. A packed row is gathered from
//!            its panel: tied embeddings share one packed copy with the
//!            output projection
//! source:    written here
//! parity:    exact

use crate::common::elem::Elem;
use crate::common::layout::{N16, N16K2, PANEL, index_in_panel, panel_bytes, stored_k};
use crate::common::parts::parts;
use crate::common::plumbing::{Meta, Result, Rows, SimdKernel, Step, real_rows};
use crate::common::simd::{Body, LANES, Simd};
use hal::cpu::{CpuSlice, TaskCtx};
use registry::{Pattern, ROW_MAJOR, RowsFrom};

struct Embed {
    table: CpuSlice<u8>,
    elem: Elem,
    layout: &'static str,
    vocab: usize,
    x: Rows<f32>,
    from: RowsFrom,
    meta: Meta,
}

impl Body for Embed {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let view = self.meta.view();
        let rows = real_rows(&view, self.from, self.x.count);
        let (bytes, k) = (self.elem.bytes(), self.x.len);
        let packed = self.layout != ROW_MAJOR;
        let pairs = self.layout == N16K2;
        for part in parts(ctx, rows, k, 64) {
            let id = view.token_id(part.row);
            assert!(id < self.vocab, "token id {id} of {}", self.vocab);
            let (mut i, end) = (part.first, part.first + part.len);
            while i < end {
                let n = (end - i).min(LANES);
                let mut gathered = [0u8; 4 * LANES];
                // SAFETY: element (id, i + n − 1) lies in the table, whose size
                // was checked when recorded; this thread's own output.
                unsafe {
                    let from = if packed {
                        let panel = id / PANEL * stored_k(self.layout, k) * PANEL;
                        for j in 0..n {
                            let at = panel + index_in_panel(pairs, id % PANEL, i + j);
                            std::ptr::copy_nonoverlapping(
                                self.table.as_ptr().add(at * bytes),
                                gathered.as_mut_ptr().add(j * bytes),
                                bytes,
                            );
                        }
                        gathered.as_ptr()
                    } else {
                        self.table.as_ptr().add((id * k + i) * bytes).cast_const()
                    };
                    let v = self.elem.load_n(s, from, n);
                    s.store_n(self.x.at(part.row).add(i), v, n);
                }
                i += LANES;
            }
        }
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let (operand, _) = step.operand(0, 0)?;
    let elem = Elem::of(operand.scheme)
        .ok_or_else(|| step.refuse(format!("no codec for {}", operand.scheme)))?;
    let (vocab, k) = (operand.shape[0], operand.shape[1]);
    let bytes = if operand.layout == ROW_MAJOR {
        vocab * k * elem.bytes()
    } else {
        vocab.div_ceil(PANEL) * panel_bytes(operand.layout, elem.bytes(), k)
    };
    let body = Embed {
        table: step.matrix(0, 0, bytes as u64)?,
        elem,
        layout: operand.layout,
        vocab,
        x: step.output(0)?,
        from: step.rows_of(0),
        meta: step.meta()?,
    };
    step.body(body)
}

const fn kernel(
    quant: &'static [&'static str],
    variant: &'static str,
    layouts: &'static [&'static str],
) -> SimdKernel {
    SimdKernel::new(&Pattern::EMBED, quant, variant, 1e-7, record).with_layouts(layouts)
}

static F32: SimdKernel = kernel(&["f32"], "simd", &[ROW_MAJOR, N16]);
static F16: SimdKernel = kernel(&["f16"], "simd", &[ROW_MAJOR, N16]);
static BF16: SimdKernel = kernel(&["bf16"], "simd", &[ROW_MAJOR, N16K2]);
registry::register!(F32, F16, BF16);
