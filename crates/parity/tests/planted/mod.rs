//! Kernels made of the oracle's own, sound or with one defect.

pub mod patterns;

use graph::{Op, OpKind};
use hal::cpu::{CpuRecorder, CpuSlice};
use hal::{Access, Device, Recorder};
use parity::kernel_gate::{
    Case, Cases, ChainOracle, KeyReport, ORACLE, Options, gate_kernel, resolve_chain,
};
use registry::{
    Act, Binds, Kernel, KernelError, KernelSpec, Operand, OperandRole, OperandSrc, Pattern,
    Prepared, Problem, ROW_MAJOR, Registry, StepLayout, TensorRef,
};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| Registry::collect().expect("a sound registry"))
}

/// Any pattern, computed by the oracle's own primitives with what lies between
/// them in the workspace; then, perhaps, damaged.
struct Chained {
    spec: KernelSpec,
    fault: Fault,
}

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    None,
    /// Refuses every problem.
    Refuses,
    /// Takes several rows of a pattern that is dealt one.
    TakesSeveralRows,
    /// Adds 1e-3 to the first output.
    Shifted,
    /// Leaves the last element of each row unwritten.
    SkipsLast,
    /// Computes one row too few in the largest bucket.
    SkipsLastRow,
    /// Writes the element after each row.
    Overruns,
    /// Writes one element before the output.
    Underruns,
    /// Writes the step buffer.
    Scribbles,
    /// Changes an input that it should only read.
    EatsInput,
    /// The last bit differs from run to run.
    Races,
    /// The last bit depends on the row's place in the batch.
    PlaceDependent,
    /// The last bit of every row's first element is the other one.
    LastBit,
    /// Sums of parts of more than 1024 numbers are off.
    LongParts,
    /// An argmax that prefers the highest of equal ids.
    LastTie,
    /// A router that prefers the highest of equal experts.
    LastExpert,
    /// Gives the first two experts of a row each other's results.
    SwapsExperts,
    /// Hands the chain another problem.
    Misreads(fn(&mut Problem)),
    /// Hands the chain another step.
    Missteps(fn(&StepLayout, &mut [u32])),
}

struct ChainedPrepared {
    problem: Problem,
    fault: Fault,
    steps: Vec<(Problem, Box<dyn Prepared>)>,
    /// Offset of each op's results in the workspace, which begins with a copy of the
    /// step.
    places: Vec<u64>,
    workspace: u64,
}

/// Bytes of an operand, up to where the next may begin.
fn bytes(o: &Operand) -> u64 {
    (o.shape.iter().product::<usize>() as u64 * 4).next_multiple_of(256)
}

impl Kernel for Chained {
    fn spec(&self) -> &KernelSpec {
        &self.spec
    }

    fn fits(&self, problem: &Problem) -> Result<(), String> {
        let several = problem.rows.max > 1;
        match self.fault {
            Fault::Refuses => Err("never fits".into()),
            Fault::TakesSeveralRows => Ok(()),
            _ if several && Case::one_row_only(&self.spec) => Err("one row".into()),
            _ => Ok(()),
        }
    }

    fn prepare(
        &self,
        problem: &Problem,
        device: &dyn Device,
    ) -> Result<Box<dyn Prepared>, KernelError> {
        let mut misread = problem.clone();
        if let Fault::Misreads(how) = self.fault {
            how(&mut misread);
        }
        let chain = resolve_chain(registry(), ORACLE, &misread, self.spec.act);
        let chain = chain.map_err(|e| KernelError::Prepare {
            key: self.spec.key().to_string(),
            reason: e.to_string(),
        })?;
        let (mut steps, mut places) = (Vec::new(), Vec::new());
        let mut workspace = problem.step.bytes().next_multiple_of(256);
        for (entry, p) in chain {
            let prepared = entry.kernel.prepare(&p, device)?;
            places.push(workspace);
            workspace += p.outputs.iter().map(bytes).sum::<u64>();
            workspace += prepared.workspace().next_multiple_of(256);
            steps.push((p, prepared));
        }
        Ok(Box::new(ChainedPrepared {
            problem: misread,
            fault: self.fault,
            steps,
            places,
            workspace,
        }))
    }
}

impl Prepared for ChainedPrepared {
    fn workspace(&self) -> u64 {
        self.workspace
    }

    fn record(&self, recorder: &mut dyn Recorder, binds: &Binds) -> Result<(), KernelError> {
        let scratch = binds.workspace.as_ref().expect("a workspace");
        let step = misstep(self.fault, &self.problem, recorder, binds)?;
        let mut made: Vec<TensorRef> = Vec::new();
        for (i, (p, prepared)) in self.steps.iter().enumerate() {
            let op = &self.problem.ops[i];
            let mut inputs = vec![step.clone(); p.inputs.len()];
            for (src, at) in op.inputs.iter().zip(&p.ops[0].inputs) {
                if let OperandSrc::Input(at) = *at {
                    inputs[at] = match *src {
                        OperandSrc::Input(n) => binds.inputs[n].clone(),
                        OperandSrc::Op(j) => made[j].clone(),
                    };
                }
            }
            let mut offset = scratch.offset + self.places[i];
            let updated = p.ops[0].op.kind().updates();
            let updated = updated.and_then(|slot| p.input(0, slot));
            let mut outputs = Vec::new();
            for (n, output) in p.outputs.iter().enumerate() {
                outputs.push(match (op.output, output.role, updated) {
                    (Some(first), ..) => binds.outputs[first + n].clone(),
                    (None, OperandRole::Cache | OperandRole::State, Some((at, _))) => {
                        inputs[at].clone()
                    }
                    _ => TensorRef::contiguous(&scratch.buffer, offset, output, bytes(output)),
                });
                offset += bytes(output);
            }
            let words = prepared.workspace();
            let workspace = TensorRef {
                offset,
                bytes: words,
                ..scratch.clone()
            };
            made.push(outputs[0].clone());
            let binds = Binds {
                inputs,
                outputs,
                workspace: (words > 0).then_some(workspace),
                step: step.clone(),
            };
            prepared.record(recorder, &binds)?;
        }
        let recorder = recorder
            .as_any_mut()
            .downcast_mut()
            .expect("a CPU recorder");
        damage(self.fault, &self.problem, recorder, binds)
    }
}

/// The step that the chain shall see: the real one, or a spoilt copy.
fn misstep(
    fault: Fault,
    problem: &Problem,
    recorder: &mut dyn Recorder,
    binds: &Binds,
) -> Result<TensorRef, KernelError> {
    let Fault::Missteps(how) = fault else {
        return Ok(binds.step.clone());
    };
    let scratch = binds.workspace.as_ref().expect("a workspace");
    let copy = TensorRef {
        buffer: scratch.buffer.clone(),
        offset: scratch.offset,
        ..binds.step.clone()
    };
    let recorder: &mut CpuRecorder = recorder
        .as_any_mut()
        .downcast_mut()
        .expect("a CPU recorder");
    let layout = problem.step.clone();
    let mut slice = |t: &TensorRef| recorder.slice(&t.buffer, t.offset, layout.words());
    let (from, to): (CpuSlice<u32>, CpuSlice<u32>) = (slice(&binds.step)?, slice(&copy)?);
    let accesses = [binds.step.read(), copy.write()];
    recorder.task("misstep", &accesses, move |ctx| {
        if ctx.thread == 0 {
            // SAFETY: a declared read and write, by one thread.
            let (from, to) = unsafe { (from.get(), to.get_mut(0, layout.words())) };
            to.copy_from_slice(from);
            how(&layout, to);
        }
    });
    Ok(copy)
}

/// Spoils what the chain has computed.
fn damage(
    fault: Fault,
    problem: &Problem,
    recorder: &mut CpuRecorder,
    binds: &Binds,
) -> Result<(), KernelError> {
    if matches!(
        fault,
        Fault::None | Fault::Refuses | Fault::Misreads(_) | Fault::Missteps(_)
    ) {
        return Ok(());
    }
    // A router's experts are its second output.
    let which = usize::from(matches!(fault, Fault::LastExpert));
    let t = &binds.outputs[which];
    let (stride, len) = (t.row_stride(), problem.outputs[which].row_len());
    // From the word before the output to the word after it.
    let words = t.bytes as usize / 4 + 2;
    let y: CpuSlice<f32> = recorder.slice(&t.buffer, t.offset - 4, words)?;
    let input = &binds.inputs[0];
    let (x_stride, x_len) = (input.row_stride(), problem.inputs[0].row_len());
    let x_words = input.bytes as usize / 4;
    let x: CpuSlice<f32> = recorder.slice(&t.buffer, input.offset, x_words)?;
    let step: CpuSlice<u32> = recorder.slice(&binds.step.buffer, binds.step.offset, 16)?;
    let whole = Access::write(&t.buffer, 0..t.buffer.len());
    let (from, bucket) = (problem.outputs[0].rows, problem.rows.max);
    let plain_route = match &problem.ops[0].op {
        Op::Route(spec) => spec.groups.is_none() && problem.ops[0].inputs.len() == 1,
        _ => false,
    };
    let each = *problem.ops[0].shape.last().expect("a dimension");
    let runs = AtomicU32::new(0);
    recorder.task("damage", &[whole], move |ctx| {
        if ctx.thread != 0 {
            return;
        }
        // SAFETY: the step declares the whole buffer and one thread runs it.
        let (y, x, step) = unsafe {
            (
                y.get_mut(0, words),
                x.get_mut(0, x_words),
                step.get_mut(0, 16),
            )
        };
        let rows = match from {
            registry::RowsFrom::Logits => step[StepLayout::LOGIT_ROWS],
            _ => step[StepLayout::ROWS],
        } as usize;
        let run = runs.fetch_add(1, Ordering::Relaxed);
        let next_bit = |v: &mut f32| *v = f32::from_bits(v.to_bits() ^ 1);
        for r in 0..rows {
            let row = 1 + r * stride..1 + r * stride + len;
            match fault {
                Fault::Shifted => y[row].iter_mut().for_each(|v| *v += 1e-3),
                Fault::SkipsLast => y[row.end - 1] = f32::NAN,
                Fault::SkipsLastRow if bucket > 64 && r + 1 == rows => y[row].fill(f32::NAN),
                Fault::Overruns => y[row.end] = 0.0,
                Fault::PlaceDependent if r == 0 => next_bit(&mut y[row.start]),
                Fault::LastBit => next_bit(&mut y[row.start]),
                Fault::LongParts if x_len.div_ceil(len / 2) > 1024 => next_bit(&mut y[row.start]),
                Fault::Races if run % 2 == 1 => next_bit(&mut y[row.start]),
                Fault::LastTie => {
                    let logits = &x[r * x_stride..][..x_len];
                    let best = logits.iter().copied().fold(f32::MIN, f32::max);
                    let last = logits.iter().rposition(|v| *v == best);
                    y[row.start] = f32::from_bits(last.map_or(u32::MAX, |i| i as u32));
                }
                Fault::LastExpert if plain_route => {
                    let logits = &x[r * x_stride..][..x_len];
                    let mut order: Vec<usize> = (0..x_len).rev().collect();
                    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
                    for (y, e) in y[row].iter_mut().zip(order) {
                        *y = f32::from_bits(e as u32);
                    }
                }
                Fault::SwapsExperts if len >= 2 * each => {
                    let (first, second) = y[row].split_at_mut(each);
                    first.swap_with_slice(&mut second[..each]);
                }
                _ => {}
            }
        }
        match fault {
            Fault::Underruns => y[0] = 0.0,
            Fault::Scribbles => step[StepLayout::ROWS] = 1,
            Fault::EatsInput => x[0] = 0.25,
            _ => {}
        }
    });
    Ok(())
}

pub fn gate(pattern: Pattern, quant: &'static [&'static str], act: Act, fault: Fault) -> KeyReport {
    let matrix = |k: OpKind| k.multiplies() || k == OpKind::Embed;
    let stored = pattern.ops.iter().any(|o| matrix(o.kind));
    let kernel = Chained {
        spec: KernelSpec {
            backend: "planted",
            pattern: Box::leak(Box::new(pattern)),
            quant,
            variant: "chained",
            act,
            rank: 0,
            layouts: if stored { &[ROW_MAJOR] } else { &[] },
            tolerance: match pattern.ops[0].kind {
                // As the trees declare it: not a bit.
                OpKind::ExpSum => 1e-20,
                _ => 1e-5,
            },
        },
        fault,
    };
    kernel.spec.pattern.check().expect("a sound pattern");
    gate_one(&kernel)
}

pub fn gate_one(kernel: &dyn Kernel) -> KeyReport {
    static DEVICE: OnceLock<Arc<dyn Device>> = OnceLock::new();
    let device = DEVICE.get_or_init(|| {
        let oracle = registry().backend(ORACLE).expect("the oracle is linked");
        oracle.open_device(&Default::default()).expect("a CPU")
    });
    let oracle = ChainOracle::open(registry()).expect("a CPU");
    let options = Options {
        cases: Cases::Quick,
        ..Options::default()
    };
    let reports = gate_kernel(kernel, device.as_ref(), &options, &oracle).expect("the gate runs");
    reports.into_iter().next().expect("one layout")
}
