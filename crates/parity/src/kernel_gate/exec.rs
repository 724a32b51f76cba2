//! Running a kernel on a case.

use super::case::Case;
use super::chain::OpValue;
use super::compare;
use super::image::Image;
use hal::{Device, Recording};
use registry::{Kernel, OperandRole, Problem, RowsFrom};

pub struct Outcome {
    /// Largest error over tolerance of all outputs.
    pub worst: f64,
    /// The bytes of every output.
    pub bits: Vec<Vec<u8>>,
}

/// Runs the case `repeats` times and once with its spans reversed, and compares.
pub fn run(
    kernel: &dyn Kernel,
    problem: &Problem,
    device: &dyn Device,
    case: &Case,
    want: &[OpValue],
    repeats: usize,
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
    let mut recorder = device.recorder("gate").map_err(|e| say("recorder", &e))?;
    prepared
        .record(recorder.as_mut(), &image.binds(problem, &arena))
        .map_err(|e| say("record", &e))?;
    let recording = recorder.finish().map_err(|e| say("finish", &e))?;

    let once = |image: &Image, case: &Case, recording: &dyn Recording| {
        let hal = |e| say("run", &e);
        device.upload(&arena, 0, &image.bytes).map_err(hal)?;
        recording.run().map_err(hal)?;
        let mut after = vec![0; image.bytes.len()];
        device.download(&arena, 0, &mut after).map_err(hal)?;
        if let Some(trespass) = image.trespass(&after) {
            return Err(trespass);
        }
        let outputs = 0..problem.outputs.len();
        Ok(outputs
            .map(|i| image.output(&after, case, problem, i))
            .collect::<Vec<_>>())
    };

    let bits = once(&image, case, recording.as_ref())?;
    let mut worst: f64 = 0.0;
    for (i, got) in bits.iter().enumerate() {
        let ratio = compare::output(case, problem, i, got, want, kernel.spec().tolerance)?;
        worst = worst.max(ratio);
    }
    for n in 1..repeats {
        if once(&image, case, recording.as_ref())? != bits {
            return Err(format!("run {} gives other bits than run 1", n + 1));
        }
    }

    let (other, rows, logits) = case.reversed();
    if rows.len() > 1 && case.batch.spans.len() > 1 {
        let image = Image::new(&other, problem, workspace).map_err(|e| e.to_string())?;
        let turned = once(&image, &other, recording.as_ref())?;
        for (i, (turned, straight)) in turned.iter().zip(&bits).enumerate() {
            let operand = &problem.outputs[i];
            let len = operand.row_len() * 4;
            let order = match operand.rows {
                RowsFrom::Logits => &logits,
                _ => &rows,
            };
            let same = match operand.role {
                OperandRole::Cache => turned == straight,
                _ => (turned.chunks_exact(len).zip(order))
                    .all(|(row, old)| row == &straight[old * len..][..len]),
            };
            if !same {
                return Err(format!(
                    "output {i}: a row's bits depend on where in the batch it stands"
                ));
            }
        }
    }
    Ok(Outcome { worst, bits })
}
