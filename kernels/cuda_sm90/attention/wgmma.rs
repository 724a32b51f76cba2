//! op: attention, many rows, f16 caches. See `wgmma.cu`.

use crate::BACKEND;
use cuda_sm86::attention::flash::fits_dims;
use cuda_sm86::common::args::Args;
use cuda_sm86::common::attend;
use cuda_sm86::common::launch::{Fits, Plain, Ptx, Result, Step, blocks};
use graph::Op;
use hal::cuda::{MapFormat, Strided};
use registry::{Act, Pattern, Problem};

const PTX: Ptx = Ptx {
    name: "cuda_sm90.attention.wgmma",
    text: include_str!("../prebuilt/attention.wgmma.ptx"),
};

/// As in the kernel: rows of a block, its threads, tiles that are under way.
const ROWS: usize = 128;
const THREADS: u32 = 384;
const STAGES: usize = 2;

/// Least tokens of a page: the swizzle of shared memory is one of 8 rows.
const LEAST_PAGE: usize = 8;

/// Tokens of a tile of keys or values.
const fn tokens(head_dim: usize) -> usize {
    if head_dim == 256 { 64 } else { 128 }
}

/// Bytes of shared memory: queries, keys and values, barriers, and what aligns them.
fn shared(head_dim: usize) -> u32 {
    let rows = ROWS + 2 * STAGES * tokens(head_dim);
    (rows * head_dim * 2 + 4 * STAGES * 8 + 1024) as u32
}

fn fits(problem: &Problem) -> Fits {
    fits_dims(problem, &[64, 128, 256])?;
    let view = attend::view(problem)?;
    if view.block < LEAST_PAGE {
        let block = view.block;
        return Err(format!(
            "for pages of {LEAST_PAGE} tokens and more, not {block}"
        ));
    }
    match problem.ops[0].op {
        Op::Attention(spec) if spec.scale > 0.0 => Ok(()),
        _ => Err("for a scale above zero".into()),
    }
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let stored = step.operand(0, 1)?;
    let view = attend::view(step.problem).map_err(|e| step.refuse(e))?;
    let mut maps = Args::default();
    let rows = view.block.min(tokens(view.head_dim)) as u32;
    maps.strided_map(
        step,
        &Strided {
            buffer: &stored.buffer,
            offset: stored.offset + view.offset as u64 * 2,
            shape: &[view.head_dim, view.block, view.kv_heads, 2, view.pages],
            strides: &[
                view.token_stride,
                view.head_stride,
                view.kv_stride,
                view.page_stride,
            ],
            format: MapFormat::F16,
            box_shape: &[rows, 1, 1, 1],
        },
    )?;
    let spans = step.problem.step.span_start();
    let (mut args, view, _) = attend::args_behind(step, maps, |args| args.step(step, spans))?;
    args.u32(step, view.block.trailing_zeros() as usize)?;
    let heads = step.row_len() / view.head_dim;
    // The parent's struct is padded to a multiple of 8 bytes.
    args.u32s(step, &[0, heads, usize::from(wide(step)?)])?;
    let pieces = (heads as u32).saturating_mul(blocks(step.max_rows() as usize, ROWS));
    let grid = [pieces.min(step.recorder.limits().multiprocessors), 1, 1];
    let entry = format!("flash_{}", view.head_dim);
    step.launch_shared(&entry, &args, grid, THREADS, shared(view.head_dim))
}

/// Whether rows of q and o start at 8-byte pieces.
fn wide(step: &Step<'_>) -> Result<bool> {
    let mut wide = true;
    for t in [step.input(0)?, step.output()] {
        let address = step.recorder.address(&t.buffer, t.offset, t.bytes)?;
        wide &= address.is_multiple_of(8) && t.row_stride().is_multiple_of(2);
    }
    Ok(wide)
}

static F16: Plain = Plain::new(&Pattern::ATTENTION, &["f16"], "wgmma", PTX, record)
    .of_tree(BACKEND)
    .with_act(Act::F16)
    .with_fits(fits)
    .with_rank(20)
    // Half a unit of an f16 in each weight of the softmax.
    .with_tolerance(2e-3);
registry::register!(F16);
