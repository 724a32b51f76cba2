//! op: gated_delta, many rows, 32 at a time. See `chunked.comp`.

use super::recurrent::head_dims;
use crate::common::launch::{Further, Gpu, Plain, Result, Step, shader};
use crate::common::state;
use graph::Op;
use hal::DeviceKind;
use registry::{Pattern, Problem, StepLayout, TensorRef};

/// Rows of a chunk, what numbers come in, and the largest key, as in the shaders.
const CHUNK: usize = 32;
const PART: usize = 64;
const MOST_DK: usize = 128;

/// Lanes of a workgroup of each shader, and columns of the second.
const LANES: u32 = 128;
const COLUMNS: usize = 16;

/// Least rows of a step: fewer go as quickly one by one.
const LEAST_ROWS: usize = 65;

/// Most bytes of records: one binding holds them.
const MOST_RECORDS: usize = 1 << 30;
const SOFTWARE_MOST_RECORDS: usize = (128 << 20) - 512;

/// Turns of loops that a chunk takes, without the states that are kept inside it.
const CHUNK_TURNS: usize = 128;

struct Sizes {
    key_heads: usize,
    dk: usize,
    heads: usize,
    dv: usize,
}

impl Sizes {
    fn of(problem: &Problem) -> std::result::Result<Sizes, String> {
        let ((key_heads, dk), (heads, dv)) = (head_dims(problem, 0)?, head_dims(problem, 2)?);
        Ok(Sizes {
            key_heads,
            dk,
            heads,
            dv,
        })
    }

    /// Bytes of what the first shader leaves for each row and head: W, q and k, U, a
    /// row of P, and four factors.
    fn record(&self) -> usize {
        let whole = |n: usize| n.next_multiple_of(PART);
        4 * (3 * whole(self.dk) + whole(self.dv) + CHUNK + 4)
    }

    fn records(&self, problem: &Problem) -> usize {
        problem.outputs[0].shape[0] * self.heads * self.record()
    }
}

fn fits(problem: &Problem) -> std::result::Result<(), String> {
    let sizes = Sizes::of(problem)?;
    if sizes.dk > MOST_DK {
        return Err(format!(
            "for key heads of up to {MOST_DK}, not {}",
            sizes.dk
        ));
    }
    if problem.rows.min < LEAST_ROWS {
        return Err(format!("for steps of {LEAST_ROWS} rows and more"));
    }
    let most = match problem.device.kind {
        DeviceKind::Software => SOFTWARE_MOST_RECORDS,
        _ => MOST_RECORDS,
    };
    match sizes.records(problem) {
        bytes if bytes <= most => Ok(()),
        bytes => Err(format!("its scratch of {bytes} bytes fits no binding")),
    }
}

/// Of each shader.
fn sizes(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    let sizes = Sizes::of(problem)?;
    let mut all = gpu.lanes(LANES);
    all.extend([sizes.dk as u32, sizes.dv as u32]);
    Ok(all)
}

fn constants(problem: &Problem, gpu: Gpu) -> std::result::Result<Vec<u32>, String> {
    state::check(problem, gpu, 7)?;
    let rows = problem.rows.max;
    // A state behind each row at most, which takes a turn for each row of its chunk.
    let turns = rows.div_ceil(CHUNK) * CHUNK_TURNS + rows * (CHUNK / 2 + 2);
    gpu.check_turns(turns, &format!("a delta rule over {rows} rows"))?;
    sizes(problem, gpu)
}

/// Whether rows of heads of `dim` begin at pieces of 16 bytes.
fn aligned(rows: &[(usize, usize)], dims: &[usize]) -> usize {
    let whole = |n: &usize| n.is_multiple_of(4);
    usize::from(
        rows.iter().all(|(at, stride)| whole(at) && whole(stride)) && dims.iter().all(whole),
    )
}

fn record(step: &mut Step<'_>) -> Result<()> {
    let Op::GatedDelta(spec) = step.problem.ops[0].op else {
        return Err(step.refuse("not a gated_delta"));
    };
    let sizes = Sizes::of(step.problem).map_err(|e| step.refuse(e))?;
    let layout = &step.problem.step;
    let view = state::view(step, 7)?;
    let records = TensorRef {
        bytes: sizes.records(step.problem) as u64,
        ..step.workspace()?.clone()
    };
    let tiled = usize::from(spec.tiled);

    let mut args = step.args();
    args.u32s(&[sizes.heads, sizes.key_heads])?;
    let mut rows = Vec::new();
    for i in 0..5 {
        rows.push(args.rows(step.input(i)?)?);
        args.u32s(&[rows[i].0, rows[i].1])?;
    }
    let decay = args.words(step.input(5)?)? as usize;
    let dt_bias = args.words(step.input(6)?)? as usize;
    let to = args.bind(&records, 0, records.bytes, 16)? as usize;
    let meta = args.step(&step.binds.step)?;
    args.u32s(&[decay, dt_bias, to])?;
    args.u32s(&[meta + StepLayout::SPANS, meta + layout.span_start()])?;
    args.u32s(&[meta + layout.state_out(), view.slots])?;
    let whole = aligned(&rows[..3], &[sizes.dk, sizes.dv]);
    args.u32s(&[usize::from(spec.log_decay), tiled, whole])?;
    let mut accesses = vec![step.binds.step.read(), records.write()];
    for i in 0..7 {
        accesses.push(step.input(i)?.read());
    }
    // Each span has one chunk that is not whole.
    let chunks = step.max_rows() as usize / CHUNK + layout.max_spans;
    step.dispatch_with(&args, [chunks as u32, sizes.heads as u32, 1], &accesses)?;

    let (keys, old) = (step.input(1)?, step.input(7)?);
    let mut args = step.args();
    args.u32s(&[sizes.heads, sizes.key_heads])?;
    let k = args.rows(keys)?;
    let from = args.bind(&records, 0, records.bytes, 16)? as usize;
    let s = args.words(old)? as usize + view.offset;
    let o = args.rows(step.output())?;
    let meta = args.step(&step.binds.step)?;
    args.u32s(&[k.0, k.1, from, s, view.slot_stride, view.slots, o.0, o.1])?;
    args.u32s(&[meta + StepLayout::SPANS, meta + layout.span_start()])?;
    args.u32s(&[meta + layout.state_in(), meta + layout.state_out()])?;
    args.u32s(&[tiled, aligned(&[o], &[sizes.dv])])?;
    let mut accesses = step.binds.accesses();
    accesses.push(records.read());
    let tiles = sizes.dv.div_ceil(COLUMNS) * sizes.heads;
    let groups = [tiles as u32, layout.max_spans as u32, 1];
    step.dispatch_further(0, &args, groups, &accesses)
}

const SECOND: &[Further] = &[Further {
    shader: shader!("gated_delta.chunked", 5, 16),
    constants,
}];

const fn chunked() -> Plain {
    let first = shader!("gated_delta.chunked_ahead", 9, 22);
    let mut plain = Plain::new(&Pattern::GATED_DELTA, &["f32"], "chunked", first, record)
        .with_constants(sizes)
        .with_further(SECOND, |problem| {
            Sizes::of(problem).map_or(0, |s| s.records(problem) as u64)
        });
    plain.fits = fits;
    plain.spec.rank = 10;
    plain.spec.tolerance = 5e-5;
    plain
}

static F32: Plain = chunked();
registry::register!(F32);
