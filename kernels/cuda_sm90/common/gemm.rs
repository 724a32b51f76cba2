//! Products of many rows through wgmma: weights in bf16, or brought to it first. See
//! `gemm.cu`.

use crate::BACKEND;
use cuda_sm86::common::args::Args;
use cuda_sm86::common::launch::{Fits, Plain, Ptx, Result, Step, blocks};
use cuda_sm86::common::layout::{COLUMNS, MMA16, ROWS, chunks};
use cuda_sm86::common::linears::{self, Form, MATRICES, Operands, x_aligned};
use cuda_sm86::common::unpacked;
use graph::Op;
use hal::cuda::{MapFormat, Matrix};
use registry::{Act, Operand, Pattern, Problem, ROW_MAJOR, Scheme, TensorRef};

const PTX: Ptx = Ptx {
    name: "cuda_sm90.common.gemm",
    text: include_str!("../prebuilt/common.gemm.ptx"),
};

/// Up to this many rows the parent's products are better.
const LEAST_ROWS: usize = 65;

/// As in the kernel: rows of a pair of blocks, columns of a tile, its shared memory,
/// threads of a block, rows of w that each block of a pair fetches.
const PAIR_ROWS: usize = 256;
const TILE: usize = 256;
const SHARED: u32 = 4 * (128 + 256) * 64 * 2 + 1024 + 128;
const THREADS: u32 = 384;
const BOX: u32 = 128;

/// Most bytes of a use's weights in bf16 that are made ahead of a product.
const MOST_UNPACKED: u64 = 1 << 30;

/// A matrix of a use.
fn matrix(problem: &Problem, i: usize) -> Option<&Operand> {
    Some(problem.input(Form::of(problem).first + i, 1)?.1)
}

/// Rows and columns of a block-quantised matrix in bf16; none for a plain one.
fn unpacked_shape(w: &Operand) -> Option<(usize, usize)> {
    let &[n, k] = w.shape.as_slice() else {
        return None;
    };
    let plain = w.scheme == Scheme::BF16;
    (!plain).then(|| (n.next_multiple_of(ROWS), chunks(k) * COLUMNS))
}

/// Bytes of x in 16 bits, then of each matrix in bf16.
fn scratch(problem: &Problem) -> Vec<u64> {
    let form = Form::of(problem);
    let x = (linears::rows(problem) * linears::columns(problem)) as u64 * 2;
    let matrices = (0..form.count).map(|i| {
        let shape = matrix(problem, i).and_then(unpacked_shape);
        shape.map_or(0, |(n, k)| (n * k) as u64 * 2)
    });
    std::iter::once(x)
        .chain(matrices)
        .map(|bytes| bytes.next_multiple_of(256))
        .collect()
}

fn workspace(problem: &Problem) -> u64 {
    scratch(problem).iter().sum()
}

fn fits(problem: &Problem) -> Fits {
    linears::fits(problem, usize::MAX)?;
    let rows = linears::rows(problem);
    if rows < LEAST_ROWS {
        return Err(format!("for {LEAST_ROWS} rows and more, not {rows}"));
    }
    let k = linears::columns(problem);
    if !k.is_multiple_of(8) {
        return Err(format!("for columns in multiples of 8, not {k}"));
    }
    let weights: u64 = scratch(problem)[1..].iter().sum();
    if weights > MOST_UNPACKED {
        return Err(format!(
            "the weights in bf16 would take {weights} bytes, {MOST_UNPACKED} are allowed"
        ));
    }
    Ok(())
}

/// Makes bf16 of x, or of its norm.
fn round(step: &mut Step<'_>, to: &TensorRef, bytes: u64) -> Result<()> {
    let x = step.operand(0, 0)?;
    let k = linears::columns(step.problem);
    let mut args = Args::default();
    let aligned = x_aligned(args.tensor(step, x)?, x.row_stride());
    let norm = match step.problem.ops[0].op {
        Op::RmsNorm { eps, weight_offset } => Some((eps, weight_offset)),
        _ => None,
    };
    if norm.is_some() {
        args.tensor(step, step.operand(0, 1)?)?;
    }
    args.part(step, to, 0, bytes)?;
    args.count(step, step.rows_from())?;
    args.u32s(step, &[k, x.row_stride(), usize::from(aligned)])?;
    match norm {
        None => {
            let grid = [blocks(k, 8 * 256), step.max_rows(), 1];
            step.launch("round_bf16", &args, grid, 256)
        }
        Some((eps, offset)) => {
            args.f32(eps);
            args.f32(offset);
            step.launch("norm_bf16", &args, [step.max_rows(), 1, 1], 256)
        }
    }
}

/// Makes bf16 of a block-quantised matrix, `at` bytes into the scratch.
fn unpack(step: &mut Step<'_>, w: &TensorRef, to: &TensorRef, at: u64, bytes: u64) -> Result<()> {
    if unpacked::SCHEMES.contains(&w.scheme.0) {
        let columns = chunks(w.shape[1]) * COLUMNS;
        return unpacked::unpack(step, w, to, (at, bytes), columns);
    }
    let (panels, chunks) = (w.shape[0].div_ceil(ROWS), chunks(w.shape[1]));
    let mut args = Args::default();
    if !args.tensor(step, w)?.is_multiple_of(16) {
        return Err(step.refuse("packed weights must start at a 16-byte piece"));
    }
    args.part(step, to, at, bytes)?;
    args.u32s(step, &[panels, chunks])?;
    let grid = [blocks(panels * chunks, 8), 1, 1];
    step.launch(&format!("unpack_{}", w.scheme.0), &args, grid, 256)
}

/// Blocks in pairs, no more than have a place at once.
fn grid(step: &Step<'_>, o: &Operands) -> [u32; 3] {
    let tiles: u32 = match o.form.gated {
        true => blocks(o.n[0], TILE / 2),
        false => o.n.iter().map(|n| blocks(*n, TILE)).sum(),
    };
    let pairs = tiles.saturating_mul(blocks(step.max_rows() as usize, PAIR_ROWS));
    let places = step.recorder.limits().multiprocessors / 2;
    [2 * pairs.min(places.max(1)), 1, 1]
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let to = step.scratch()?;
    let parts = scratch(step.problem);
    let k = linears::columns(step.problem);
    let first = Form::of(step.problem).first;
    round(step, to, parts[0])?;
    let mut args = Args::default();
    let x = Matrix {
        buffer: &to.buffer,
        offset: to.offset,
        rows: step.max_rows() as usize,
        columns: k,
        stride: k,
        format: MapFormat::Bf16,
        box_rows: BOX,
    };
    args.map(step, &x)?;
    let mut at = parts[0];
    for i in 0..MATRICES {
        // Behind the last, the first again: a place must hold a map.
        let own = if i + 1 < parts.len() { i } else { 0 };
        let w = step.operand(first + own, 1)?;
        let of = matrix(step.problem, own).and_then(unpacked_shape);
        let (buffer, offset, stride) = match of {
            None => (&w.buffer, w.offset, w.row_stride()),
            Some((_, stride)) if own < i => (&to.buffer, to.offset + parts[0], stride),
            Some((_, stride)) => {
                unpack(step, w, to, at, parts[1 + i])?;
                let here = at;
                at += parts[1 + i];
                (&to.buffer, to.offset + here, stride)
            }
        };
        let w = Matrix {
            buffer,
            offset,
            rows: w.shape[0],
            columns: k,
            stride,
            format: MapFormat::Bf16,
            box_rows: BOX,
        };
        args.map(step, &w)?;
    }
    let mut wide = true;
    let o = linears::pointers(&mut args, step, |args| {
        args.part(step, to, 0, parts[0])?;
        Ok(true)
    })?;
    for (i, y) in step.binds.outputs.iter().enumerate() {
        let address = step.recorder.address(&y.buffer, y.offset, y.bytes)?;
        wide &= address.is_multiple_of(8) && o.y_stride[i].is_multiple_of(2);
    }
    if o.form.add {
        let added = step.operand(o.form.first + o.form.count, 0)?;
        let address = (step.recorder).address(&added.buffer, added.offset, added.bytes)?;
        wide &= address.is_multiple_of(8) && o.add_stride.is_multiple_of(2);
    }
    args.u32(step, k)?;
    args.u32s(step, &o.n)?;
    args.u32s(step, &o.y_stride)?;
    args.u32s(step, &[o.add_stride, usize::from(wide)])?;
    let body = if o.form.gated { "gated" } else { "gemm" };
    let grid = grid(step, &o);
    step.launch_shared(&format!("{body}_bf16"), &args, grid, THREADS, SHARED)
}

/// The kernel of one list of schemes.
pub const fn kernel(pattern: &'static Pattern, quant: &'static [&'static str]) -> Plain {
    Plain::new(pattern, quant, "wgmma", PTX, record)
        .of_tree(BACKEND)
        .with_layouts(&[MMA16])
        .with_act(Act::Bf16)
        .with_fits(fits)
        .with_workspace(workspace)
        .with_rank(20)
        // Tensor cores cut off the last bits of every sum of 16 products: 6.4e-5 at
        // K = 12288.
        .with_tolerance(1e-4)
}

/// The kernel of bf16 weights.
pub const fn plain(pattern: &'static Pattern) -> Plain {
    kernel(pattern, &["bf16"]).with_layouts(&[ROW_MAJOR])
}

/// The same behind a norm, whose last bits turn roundings of x. One that is turned moves
/// a sum by a unit of bf16 times a weight: with 40 columns, an x of 4 to 8 and the largest
/// weights by up to 7e-3 of the largest sums, with thousands by far less.
pub const fn normed(kernel: Plain) -> Plain {
    kernel.with_tolerance(8e-3)
}

pub const fn alone(kernel: Plain) -> Plain {
    kernel
}

/// Registers the kernels of a pattern for each scheme alone; `$of` is `alone`, or
/// `normed` where a norm is ahead.
macro_rules! register_all {
    ($pattern:expr, $of:ident) => {
        use $crate::common::gemm::{kernel, plain, $of};
        static BF16: cuda_sm86::common::launch::Plain = $of(plain($pattern));
        static Q4_0: cuda_sm86::common::launch::Plain = $of(kernel($pattern, &["q4_0"]));
        static Q8_0: cuda_sm86::common::launch::Plain = $of(kernel($pattern, &["q8_0"]));
        static Q4_K: cuda_sm86::common::launch::Plain = $of(kernel($pattern, &["q4_k"]));
        static Q5_K: cuda_sm86::common::launch::Plain = $of(kernel($pattern, &["q5_k"]));
        static Q6_K: cuda_sm86::common::launch::Plain = $of(kernel($pattern, &["q6_k"]));
        registry::register!(BF16, Q4_0, Q8_0, Q4_K, Q5_K, Q6_K);
    };
}
pub(crate) use register_all;
