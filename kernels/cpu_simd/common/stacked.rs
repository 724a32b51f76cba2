//! Products with one of several matrices `[N, K]` that are stacked to `[parts·N,
//! K]`, row-major in any scheme: the experts that a row chose, or the matrix of each
//! head. A weight row is decoded once and meets every activation that uses it.
//!
//! Threads share the weight rows of the parts that are used at all, so a decode
//! step's few experts still keep every thread busy.

use super::elem::Elem;
use super::plumbing::{Fits, Meta, Result, Rows, SimdKernel, Step, real_rows};
use super::simd::{Body, LANES, Simd};
use formats::StoredType;
use graph::Op;
use hal::cpu::{CpuSlice, TaskCtx};
use registry::{Pattern, Problem, ROW_MAJOR, RowsFrom, Scheme};

#[derive(Clone, Copy)]
enum Codec {
    Plain(Elem),
    Blocks(StoredType),
}

fn codec(scheme: Scheme) -> Option<Codec> {
    if let Some(elem) = Elem::of(scheme) {
        return Some(Codec::Plain(elem));
    }
    let mut all = StoredType::ALL.iter().copied();
    let found = all.find(|t| t.scheme() == scheme.0 && t.block_elements() > 1);
    found.map(Codec::Blocks)
}

/// Which activations a part meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// Those whose experts, input 2, name it.
    Chosen,
    /// Its own slice of every row.
    Own,
    /// Every row: there is but one part.
    All,
}

struct Stacked {
    x: Rows<f32>,
    weights: CpuSlice<u8>,
    codec: Codec,
    /// The experts of each row; without: part p meets slice p of every row.
    chosen: Option<Rows<u32>>,
    bias: Option<CpuSlice<f32>>,
    y: Rows<f32>,
    from: RowsFrom,
    parts: usize,
    n: usize,
    k: usize,
    row_bytes: usize,
    /// A decoded row for each thread.
    scratch: CpuSlice<f32>,
    meta: Meta,
}

/// A part's activation: its row, where its K elements begin, and where its N results.
#[derive(Clone, Copy)]
struct Use {
    row: usize,
    from: usize,
    to: usize,
}

impl Stacked {
    /// The uses of every part that has any, in order.
    fn uses(&self, rows: usize) -> Vec<(usize, Vec<Use>)> {
        let Some(chosen) = self.chosen else {
            let of = |part: usize| {
                let one = move |row| Use {
                    row,
                    from: part * self.k,
                    to: part * self.n,
                };
                (part, (0..rows).map(one).collect())
            };
            return (0..self.parts).map(of).collect();
        };
        let shared = self.x.len == self.k;
        let mut all: Vec<Vec<Use>> = vec![Vec::new(); self.parts];
        for row in 0..rows {
            for j in 0..chosen.len {
                // SAFETY: a declared read of a row's experts.
                let part = unsafe { *chosen.at(row).add(j) } as usize;
                let from = if shared { 0 } else { j * self.k };
                let to = j * self.n;
                if let Some(uses) = all.get_mut(part) {
                    uses.push(Use { row, from, to });
                }
            }
        }
        let used = all.into_iter().enumerate();
        used.filter(|(_, uses)| !uses.is_empty()).collect()
    }

    /// # Safety
    /// `decoded` holds K elements, rounded up to whole vectors.
    #[inline(always)]
    unsafe fn decode<S: Simd>(&self, s: S, row: usize, decoded: *mut f32) {
        // SAFETY: a declared read; `record` checked that all rows are there.
        unsafe {
            let from = self.weights.as_ptr().add(row * self.row_bytes);
            match self.codec {
                Codec::Plain(elem) => elem.decode_row(s, from, decoded, self.k),
                Codec::Blocks(stored) => {
                    let src = std::slice::from_raw_parts(from, self.row_bytes);
                    let dst = std::slice::from_raw_parts_mut(decoded, self.k);
                    let done = formats::decode_row(stored, src, dst);
                    done.expect("rows of whole blocks");
                }
            }
        }
    }

    /// Σ x·w of one activation.
    ///
    /// # Safety
    /// `x` holds K elements, `w` as [`Stacked::decode`] leaves them.
    #[inline(always)]
    unsafe fn dot<S: Simd>(&self, s: S, x: *const f32, w: *const f32) -> f32 {
        let mut acc = [s.zero(); 4];
        let mut i = 0;
        // SAFETY: every access ends at or before K.
        unsafe {
            while i + 4 * LANES <= self.k {
                for (j, acc) in acc.iter_mut().enumerate() {
                    let at = i + j * LANES;
                    *acc = s.fma(s.load(x.add(at)), s.load(w.add(at)), *acc);
                }
                i += 4 * LANES;
            }
            while i < self.k {
                let n = self.k - i;
                acc[0] = s.fma(s.load_n(x.add(i), n), s.load_n(w.add(i), n), acc[0]);
                i += LANES;
            }
        }
        s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
    }
}

impl Body for Stacked {
    #[inline(always)]
    fn run<S: Simd>(&self, s: S, ctx: &TaskCtx) {
        let rows = real_rows(&self.meta.view(), self.from, self.y.count);
        let parts = self.uses(rows);
        let pad = self.k.next_multiple_of(LANES);
        assert!((ctx.thread + 1) * pad <= self.scratch.len());
        let decoded = self.scratch.as_ptr().wrapping_add(ctx.thread * pad);
        for unit in ctx.share(parts.len() * self.n) {
            let ((part, uses), n) = (&parts[unit / self.n], unit % self.n);
            let row = part * self.n + n;
            // SAFETY: a declared read.
            let bias = self.bias.map_or(0.0, |b| unsafe { b.get()[row] });
            // SAFETY: the scratch is this thread's; each weight row's results are
            // one thread's.
            unsafe {
                self.decode(s, row, decoded);
                for u in uses {
                    let x = self.x.at(u.row).add(u.from);
                    *self.y.at(u.row).add(u.to + n) = self.dot(s, x, decoded) + bias;
                }
            }
        }
    }
}

fn sizes(p: &Problem) -> Option<(usize, usize, usize)> {
    let (_, w) = p.input(0, 1)?;
    let &[rows, k] = w.shape.as_slice() else {
        return None;
    };
    let n = match p.ops[0].op {
        // Of one part, whatever dimensions its rows have.
        Op::Linear { .. } => rows,
        _ => *p.ops[0].shape.last()?,
    };
    (n > 0 && rows.is_multiple_of(n)).then_some((rows / n, n, k))
}

fn fits(p: &Problem) -> Fits {
    let (_, n, k) = sizes(p).ok_or("a stack of matrices [N, K] was expected")?;
    let (_, w) = p.input(0, 1).ok_or("the weight must come from outside")?;
    match w.scheme.row_bytes(k) {
        Some(_) if n > 0 => Ok(()),
        _ => Err(format!("{k} elements are no whole blocks of {}", w.scheme)),
    }
}

fn workspace(p: &Problem) -> u64 {
    let k = sizes(p).map_or(0, |(_, _, k)| k);
    (4 * k.next_multiple_of(LANES) * p.device.threads) as u64
}

pub fn record(step: &mut Step<'_>, users: Users) -> Result<()> {
    let Some((parts, n, k)) = sizes(step.problem) else {
        return Err(step.refuse("a stack of matrices [N, K] was expected"));
    };
    let (operand, _) = step.operand(0, 1)?;
    let scheme = operand.scheme;
    let codec = codec(scheme).ok_or_else(|| step.refuse(format!("no codec for {scheme}")))?;
    let row_bytes = scheme.row_bytes(k).unwrap_or(0);
    let bytes = row_bytes * (parts * n) as u64;
    let len = k.next_multiple_of(LANES) * step.threads();
    let body = Stacked {
        x: step.activation(0, 0)?,
        weights: step.matrix(0, 1, bytes)?,
        codec,
        chosen: match users {
            Users::Chosen => Some(step.ids(0, 2)?),
            Users::Own | Users::All => None,
        },
        bias: match users {
            Users::Chosen if step.has(0, 3) => Some(step.vector(0, 3)?),
            Users::All if step.has(0, 2) => Some(step.vector(0, 2)?),
            _ => None,
        },
        from: step.rows_of(0),
        y: step.output(0)?,
        parts,
        n,
        k,
        row_bytes: row_bytes as usize,
        scratch: step.workspace(len)?,
        meta: step.meta()?,
    };
    step.body(body)
}

pub const fn kernel(
    pattern: &'static Pattern,
    quant: &'static [&'static str],
    variant: &'static str,
    record: fn(&mut Step<'_>) -> Result<()>,
) -> SimdKernel {
    SimdKernel::new(pattern, quant, variant, 2e-5, record)
        .with_fits(fits)
        .with_workspace(workspace)
        .with_layouts(&[ROW_MAJOR])
        .with_rank(0)
}
