//! Running a kernel on a case.

use super::case::{Case, Product, products};
use super::chain::OpValue;
use super::compare;
use super::image::Image;
use hal::{Buffer, Device, HalError};
use registry::{Binds, Kernel, Prepared, Problem, RowsFrom, TensorRef};

pub struct Outcome {
    /// Largest error over tolerance of all outputs.
    pub worst: f64,
    /// The bytes of every output.
    pub bits: Vec<Vec<u8>>,
}

/// Runs the case `repeats` times, once with its spans reversed, and, where there are
/// recurrent states, in two steps; and compares.
/// `declarations` also asks whether the kernel declares what it reads and writes.
pub fn run(
    kernel: &dyn Kernel,
    problem: &Problem,
    device: &dyn Device,
    case: &Case,
    want: &[Vec<OpValue>],
    repeats: usize,
    declarations: bool,
) -> Result<Outcome, String> {
    let say = |what: &str, e: &dyn std::fmt::Display| format!("{what}: {e}");
    let prepared = kernel
        .prepare(problem, device)
        .map_err(|e| say("prepare", &e))?;
    let workspace = prepared.workspace();
    let image = Image::new(case, problem, workspace).map_err(|e| e.to_string())?;
    let arena = device
        .alloc(image.bytes.len() as u64, "kernel gate")
        .map_err(|e| say("alloc", &e))?;
    let binds = image.binds(problem, &arena);
    if declarations {
        let mut writes: Vec<(String, TensorRef)> = (binds.outputs.iter().enumerate())
            .map(|(i, t)| (format!("output {i}"), t.clone()))
            .collect();
        let unlisted = products(problem).into_iter().filter_map(|p| match p {
            Product::Update { input, .. } => Some(input),
            Product::Rows { .. } => None,
        });
        writes.extend(unlisted.map(|n| (format!("input {n}"), binds.inputs[n].clone())));
        undeclared(prepared.as_ref(), device, &arena, &binds, &writes)?;
    }
    let mut recorder = device.recorder("gate").map_err(|e| say("recorder", &e))?;
    prepared
        .record(recorder.as_mut(), &binds)
        .map_err(|e| say("record", &e))?;
    let recording = recorder.finish().map_err(|e| say("finish", &e))?;

    let once = |image: &Image| {
        let hal = |e| say("run", &e);
        device.upload(&arena, 0, &image.bytes).map_err(hal)?;
        recording.run().map_err(hal)?;
        let mut after = vec![0; image.bytes.len()];
        device.download(&arena, 0, &mut after).map_err(hal)?;
        if let Some(trespass) = image.trespass(&after) {
            return Err(trespass);
        }
        Ok(after)
    };
    let products = products(problem);
    let collect = |image: &Image, case: &Case, after: &[u8]| -> Vec<Vec<u8>> {
        let bytes = |p: &Product| image.product(after, case, problem, *p);
        products.iter().map(bytes).collect()
    };
    let tolerance = kernel.spec().tolerance;
    let mut worst: f64 = 0.0;
    let mut check = |case: &Case, bits: &[Vec<u8>], want: &[Vec<OpValue>]| {
        for (product, got) in products.iter().zip(bits) {
            let ratio = compare::product(case, problem, *product, got, want, tolerance)?;
            worst = worst.max(ratio);
        }
        Ok::<_, String>(())
    };

    let bits = collect(&image, case, &once(&image)?);
    check(case, &bits, want)?;
    for n in 1..repeats {
        let again = once(&image)?;
        if collect(&image, case, &again) != bits {
            return Err(format!("run {} gives other bits than run 1", n + 1));
        }
    }

    let (other, rows, logits) = case.reversed();
    if rows.len() > 1 && case.batch.spans.len() > 1 {
        let image = Image::new(&other, problem, workspace).map_err(|e| e.to_string())?;
        let after = once(&image)?;
        let turned = collect(&image, &other, &after);
        for (product, (turned, straight)) in products.iter().zip(turned.iter().zip(&bits)) {
            let same = match *product {
                Product::Update { .. } => turned == straight,
                Product::Rows { output, .. } => {
                    let operand = &problem.outputs[output];
                    let len = operand.row_len() * 4;
                    let order = match operand.rows {
                        RowsFrom::Logits => &logits,
                        _ => &rows,
                    };
                    (turned.chunks_exact(len).zip(order))
                        .all(|(row, old)| row == &straight[old * len..][..len])
                }
            };
            if !same {
                return Err(format!(
                    "{product:?}: a row's bits depend on where in the batch it stands"
                ));
            }
        }
    }

    if let Some(halves) = case.halves() {
        let of = case.batch.rows();
        let mut states = case.states.clone();
        for (n, (mut half, rows)) in halves.into_iter().enumerate() {
            half.states = states;
            let image = Image::new(&half, problem, workspace).map_err(|e| e.to_string())?;
            let after = once(&image)?;
            let want = compare::of_rows(want, &rows, of);
            check(&half, &collect(&image, &half, &after), &want)
                .map_err(|e| format!("the same rows in two steps, step {}: {e}", n + 1))?;
            states = image.states(&after);
        }
    }
    Ok(Outcome { worst, bits })
}

/// Puts a copy into each end of each input before the kernel, and one out of each
/// end of each output behind it: a barrier must stand between. Kernels of several
/// commands have barriers of their own and are left alone.
fn undeclared(
    prepared: &dyn Prepared,
    device: &dyn Device,
    arena: &Buffer,
    binds: &Binds,
    writes: &[(String, TensorRef)],
) -> Result<(), String> {
    let say = |e: HalError| format!("declarations: {e}");
    let scratch = device.alloc(256, "declarations").map_err(say)?;
    let record = |before: Option<u64>, after: Option<u64>| {
        let mut recorder = device.recorder("declarations").map_err(say)?;
        if let Some(at) = before {
            recorder.copy(&scratch, 0, arena, at, 4).map_err(say)?;
        }
        prepared
            .record(recorder.as_mut(), binds)
            .map_err(|e| format!("record: {e}"))?;
        if let Some(at) = after {
            recorder.copy(arena, at, &scratch, 0, 4).map_err(say)?;
        }
        Ok::<_, String>(recorder.finish().map_err(say)?.stats())
    };
    if record(None, None)?.commands != 1 {
        return Ok(());
    }
    let ends = |t: &TensorRef| [t.offset, t.offset + (t.bytes.max(4) - 4) / 4 * 4];
    let read = binds.inputs.iter().chain([&binds.step]).enumerate();
    for (i, t) in read.filter(|(_, t)| t.bytes > 0) {
        for at in ends(t) {
            if record(Some(at), None)?.barriers == 0 {
                let byte = at - t.offset;
                let what = match binds.inputs.get(i) {
                    Some(_) => format!("input {i}"),
                    None => "the step buffer".into(),
                };
                return Err(format!(
                    "does not declare that it reads byte {byte} of {what}"
                ));
            }
        }
    }
    for (what, t) in writes.iter().filter(|(_, t)| t.bytes > 0) {
        for at in ends(t) {
            if record(None, Some(at))?.barriers == 0 {
                let byte = at - t.offset;
                return Err(format!(
                    "does not declare that it writes byte {byte} of {what}"
                ));
            }
        }
    }
    Ok(())
}
