//! embed / block schemes / blocks (cpu_simd)
//! op:        x[t] = table[token_id[t]]
//! shapes:    table [V, H]; x [T, H]
//! dtypes:    the table's scheme in, f32 out, exact
//! partition: threads share the rows' blocks. A packed row is gathered from its
//!            panel: tied embeddings share one packed copy with the output
//!            projection
//! source:    written here
//! parity:    exact

use crate::common::layout::{PANEL, panel_size};
use crate::common::parts::parts;
use crate::common::plumbing::{Fits, Meta, Result, Rows, SimdKernel, Step, real_rows};
use crate::common::q_codes::STEP;
use crate::common::q_scheme::{
    BlockScheme, Kind, PanelParts, Q16, decode, decode_block, with_scheme,
};
use crate::common::q_sides::Sides;
use hal::cpu::{CpuSlice, TaskCtx};
use registry::{Pattern, Problem, ROW_MAJOR, RowsFrom};

struct Embed {
    table: CpuSlice<u8>,
    kind: Kind,
    packed: bool,
    vocab: usize,
    x: Rows<f32>,
    from: RowsFrom,
    meta: Meta,
}

impl Embed {
    fn run(&self, ctx: &TaskCtx) {
        with_scheme!(self.kind, W => self.rows::<W>(ctx));
    }

    fn rows<W: BlockScheme>(&self, ctx: &TaskCtx) {
        let view = self.meta.view();
        let rows = real_rows(&view, self.from, self.x.count);
        let k = self.x.len;
        let span = W::Sides::STEPS * STEP;
        let (panel, row) = (PanelParts::of::<W>(k).bytes, k / span * W::BLOCK);
        // SAFETY: a declared read; no step writes weights.
        let table = unsafe { self.table.get() };
        for part in parts(ctx, rows, k, span) {
            let id = view.token_id(part.row);
            assert!(id < self.vocab, "token id {id} of {}", self.vocab);
            let mut values = [0f32; 256];
            let values = &mut values[..part.len];
            if self.packed {
                let panel = &table[id / PANEL * panel..][..panel];
                decode::<W>(panel, k, id % PANEL, part.first / STEP, values);
            } else {
                let at = id * row + part.first / span * W::BLOCK;
                decode_block::<W>(&table[at..][..W::BLOCK], values);
            }
            // SAFETY: this thread's own part of an output row.
            unsafe {
                let to = self.x.at(part.row).add(part.first);
                std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
            }
        }
    }
}

fn fits(p: &Problem) -> Fits {
    let (_, table) = p.input(0, 0).ok_or("the table must come from outside")?;
    let kind = Kind::of(table.scheme.0).ok_or_else(|| format!("no codec for {}", table.scheme))?;
    let k = table.shape.get(1).copied().unwrap_or(0);
    match PanelParts::find(kind, k) {
        Some(_) => Ok(()),
        None => Err(format!(
            "rows of {k} are no whole blocks of {}",
            table.scheme
        )),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let (operand, _) = step.operand(0, 0)?;
    let unknown = || format!("no codec for {} in {}", operand.scheme, operand.layout);
    let kind = Kind::of(operand.scheme.0).ok_or_else(|| step.refuse(unknown()))?;
    let (vocab, k) = (operand.shape[0], operand.shape[1]);
    let packed = operand.layout != ROW_MAJOR;
    let bytes = match packed {
        true => panel_size(operand.layout, operand.scheme.0, k)
            .map(|panel| (vocab.div_ceil(PANEL) * panel) as u64),
        false => operand.scheme.row_bytes(k).map(|row| row * vocab as u64),
    };
    let bytes = bytes.ok_or_else(|| step.refuse(unknown()))?;
    let body = Embed {
        table: step.matrix(0, 0, bytes)?,
        kind,
        packed,
        vocab,
        x: step.output(0)?,
        from: step.rows_of(0),
        meta: step.meta()?,
    };
    step.task(move |ctx| body.run(ctx))
}

macro_rules! kernels {
    ($($name:ident $scheme:literal,)+) => {
        $(static $name: SimdKernel =
            SimdKernel::new(&Pattern::EMBED, &[$scheme], "blocks", 1e-7, record)
                .with_layouts(&[ROW_MAJOR, Q16])
                .with_fits(fits);)+
        registry::register!($($name),+);
    };
}

kernels! {
    Q4_0 "q4_0",
    Q4_1 "q4_1",
    Q5_0 "q5_0",
    Q5_1 "q5_1",
    Q8_0 "q8_0",
    Q2_K "q2_k",
    Q3_K "q3_k",
    Q4_K "q4_k",
    Q5_K "q5_k",
    Q6_K "q6_k",
    IQ4_NL "iq4_nl",
    IQ4_XS "iq4_xs",
    MXFP4 "mxfp4",
    W4_PARO "w4_paro",
}
