//! The gate must be able to fail: kernels broken on purpose, one defect each,
//! and sound ones of every shape of pattern that must pass.

use graph::{Activation, Op, OpKind};
use hal::cpu::{CpuRecorder, CpuSlice};
use hal::{Access, Device, Recorder};
use parity::kernel_gate::{ChainOracle, KeyReport, ORACLE, Options, gate_kernel, resolve_chain};
use registry::{
    Act, Binds, Kernel, KernelError, KernelSpec, Operand, OperandRole, OperandSrc, Pattern,
    PatternOp, Prepared, Problem, ROW_MAJOR, Registry, Scheme, Src, StepLayout, TensorRef,
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
enum Fault {
    None,
    /// Refuses every problem.
    Refuses,
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
    /// An argmax that prefers the highest of equal ids.
    LastTie,
    /// Hands the chain another problem.
    Misreads(fn(&mut Problem)),
}

struct ChainedPrepared {
    problem: Problem,
    fault: Fault,
    steps: Vec<(Problem, Box<dyn Prepared>)>,
    /// Offset of each op's result in the workspace.
    places: Vec<u64>,
    workspace: u64,
}

fn bytes(o: &Operand) -> u64 {
    o.shape.iter().product::<usize>() as u64 * 4
}

impl Kernel for Chained {
    fn spec(&self) -> &KernelSpec {
        &self.spec
    }

    fn fits(&self, _: &Problem) -> Result<(), String> {
        match self.fault {
            Fault::Refuses => Err("never fits".into()),
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
        let (mut steps, mut places, mut workspace) = (Vec::new(), Vec::new(), 0u64);
        for (entry, p) in chain {
            let prepared = entry.kernel.prepare(&p, device)?;
            places.push(workspace);
            let scratch = bytes(&p.outputs[0]).next_multiple_of(256);
            workspace += scratch + prepared.workspace().next_multiple_of(256);
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
        let mut made: Vec<TensorRef> = Vec::new();
        for (i, (p, prepared)) in self.steps.iter().enumerate() {
            let op = &self.problem.ops[i];
            let mut inputs = vec![binds.step.clone(); p.inputs.len()];
            for (src, at) in op.inputs.iter().zip(&p.ops[0].inputs) {
                if let OperandSrc::Input(at) = *at {
                    inputs[at] = match *src {
                        OperandSrc::Input(n) => binds.inputs[n].clone(),
                        OperandSrc::Op(j) => made[j].clone(),
                    };
                }
            }
            let output = &p.outputs[0];
            let offset = scratch.offset + self.places[i];
            let out = match (op.output, p.ops[0].inputs.get(2)) {
                (Some(n), _) => binds.outputs[n].clone(),
                (None, Some(OperandSrc::Input(at))) if output.role == OperandRole::Cache => {
                    inputs[*at].clone()
                }
                _ => TensorRef::contiguous(&scratch.buffer, offset, output, bytes(output)),
            };
            let words = prepared.workspace();
            let behind = offset + bytes(output).next_multiple_of(256);
            let workspace = TensorRef {
                offset: behind,
                bytes: words,
                ..scratch.clone()
            };
            let binds = Binds {
                inputs,
                outputs: vec![out.clone()],
                workspace: (words > 0).then_some(workspace),
                step: binds.step.clone(),
            };
            prepared.record(recorder, &binds)?;
            made.push(out);
        }
        let recorder = recorder
            .as_any_mut()
            .downcast_mut()
            .expect("a CPU recorder");
        damage(self.fault, &self.problem, recorder, binds)
    }
}

/// Spoils what the chain has computed.
fn damage(
    fault: Fault,
    problem: &Problem,
    recorder: &mut CpuRecorder,
    binds: &Binds,
) -> Result<(), KernelError> {
    if matches!(fault, Fault::None | Fault::Refuses | Fault::Misreads(_)) {
        return Ok(());
    }
    let t = &binds.outputs[0];
    let (stride, len) = (t.row_stride(), problem.outputs[0].row_len());
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
                Fault::Races if run % 2 == 1 => next_bit(&mut y[row.start]),
                Fault::LastTie => {
                    let logits = &x[r * x_stride..][..x_len];
                    let best = logits.iter().copied().fold(f32::MIN, f32::max);
                    let id = logits.iter().rposition(|v| *v == best).expect("a maximum");
                    y[row.start] = f32::from_bits(id as u32);
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

fn gate(pattern: Pattern, quant: &'static [&'static str], act: Act, fault: Fault) -> KeyReport {
    let matrices = [OpKind::Linear, OpKind::Embed];
    let stored = pattern.ops.iter().any(|o| matrices.contains(&o.kind));
    let kernel = Chained {
        spec: KernelSpec {
            backend: "planted",
            pattern: Box::leak(Box::new(pattern)),
            quant,
            variant: "chained",
            act,
            rank: 0,
            layouts: if stored { &[ROW_MAJOR] } else { &[] },
            tolerance: 1e-5,
        },
        fault,
    };
    kernel.spec.pattern.check().expect("a sound pattern");
    gate_one(&kernel)
}

fn gate_one(kernel: &dyn Kernel) -> KeyReport {
    static DEVICE: OnceLock<Arc<dyn Device>> = OnceLock::new();
    let device = DEVICE.get_or_init(|| {
        let oracle = registry().backend(ORACLE).expect("the oracle is linked");
        oracle.open_device(&Default::default()).expect("a CPU")
    });
    let oracle = ChainOracle::open(registry()).expect("a CPU");
    let options = Options {
        quick: true,
        ..Options::default()
    };
    let reports = gate_kernel(kernel, device.as_ref(), &options, &oracle).expect("the gate runs");
    reports.into_iter().next().expect("one layout")
}

fn op(kind: OpKind, inputs: &'static [Src]) -> PatternOp {
    PatternOp { kind, inputs }
}

fn pattern(ops: &[PatternOp], outputs: &'static [usize]) -> Pattern {
    Pattern {
        ops: ops.to_vec().leak(),
        outputs,
    }
}

#[test]
fn sound_kernels_of_any_pattern_pass() {
    use OpKind::*;
    use Src::{Any, Op, Same};
    let cases: Vec<(&str, Pattern, &[&str], Act)> = vec![
        ("add", Pattern::ADD, &["f32"], Act::F32),
        ("linear", Pattern::LINEAR, &["bf16"], Act::Bf16),
        (
            "add, rms_norm; the sum is used again",
            pattern(&[op(Add, &[]), op(RmsNorm, &[Op(0)])], &[0, 1]),
            &["f32"],
            Act::F32,
        ),
        (
            "rms_norm and three linears",
            pattern(
                &[
                    op(RmsNorm, &[]),
                    op(Linear, &[Op(0)]),
                    op(Linear, &[Op(0)]),
                    op(Linear, &[Op(0)]),
                ],
                &[1, 2, 3],
            ),
            &["bf16", "f16", "f32"],
            Act::F32,
        ),
        (
            "gate, up, product, down, residual",
            pattern(
                &[
                    op(Linear, &[]),
                    op(Linear, &[Same(0, 0)]),
                    op(GatedMul(Activation::Silu), &[Op(0), Op(1)]),
                    op(Linear, &[Op(2)]),
                    op(Add, &[Any, Op(3)]),
                ],
                &[4],
            ),
            &["bf16"],
            Act::F32,
        ),
        (
            "norms and ropes of q and k, append",
            pattern(
                &[
                    op(RmsNorm, &[]),
                    op(Rope, &[Op(0)]),
                    op(RmsNorm, &[]),
                    op(Rope, &[Op(2), Same(1, 1)]),
                    op(KvAppend, &[Op(3)]),
                ],
                &[1, 4],
            ),
            &["bf16"],
            Act::F32,
        ),
        (
            "append and attend",
            pattern(&[op(KvAppend, &[]), op(Attention, &[Any, Op(0)])], &[0, 1]),
            &["f16"],
            Act::F32,
        ),
        (
            "attend, project, add",
            pattern(
                &[
                    op(Attention, &[]),
                    op(Linear, &[Op(0)]),
                    op(Add, &[Any, Op(1)]),
                ],
                &[2],
            ),
            &["f16", "bf16"],
            Act::F32,
        ),
        (
            "embed, norm",
            pattern(&[op(Embed, &[]), op(RmsNorm, &[Op(0)])], &[0, 1]),
            &["f16"],
            Act::F32,
        ),
        (
            "table, rope",
            pattern(&[op(RopeTable, &[]), op(Rope, &[Any, Op(0)])], &[0, 1]),
            &["f32"],
            Act::F32,
        ),
        (
            "gather, norm, head, argmax",
            pattern(
                &[
                    op(GatherRows, &[]),
                    op(RmsNorm, &[Op(0)]),
                    op(Linear, &[Op(1)]),
                    op(ArgMax, &[Op(2)]),
                ],
                &[2, 3],
            ),
            &["bf16"],
            Act::Bf16,
        ),
    ];
    for (name, pattern, quant, act) in cases {
        let quant = quant.to_vec().leak();
        let report = gate(pattern, quant, act, Fault::None);
        assert!(report.passed(), "{name}: {report}");
        assert!(report.cases >= 12, "{name}: {report}");
    }
}

/// What the gate must say of each defect.
#[test]
fn every_planted_defect_is_caught() {
    const NO_BIAS: Fault = Fault::Misreads(|p| p.ops[0].inputs.truncate(2));
    const NO_WINDOW: Fault = Fault::Misreads(|p| {
        for o in &mut p.ops {
            if let Op::Attention(spec) = &mut o.op {
                spec.window = None;
            }
        }
    });
    const NO_OFFSET: Fault = Fault::Misreads(|p| {
        if let Op::RmsNorm { weight_offset, .. } = &mut p.ops[0].op {
            *weight_offset = 0.0;
        }
    });
    const WRONG_GROUPS: Fault = Fault::Misreads(|p| {
        for view in p.inputs.iter_mut().filter_map(|o| o.cache.as_mut()) {
            view.head_stride = 0;
        }
    });
    const WRONG_PAGES: Fault = Fault::Misreads(|p| {
        let operands = p.inputs.iter_mut().chain(&mut p.outputs);
        for view in operands.filter_map(|o| o.cache.as_mut()) {
            view.offset = 0;
        }
    });
    const LESS_ROTARY: Fault = Fault::Misreads(|p| {
        let dim = *p.ops[0].shape.last().expect("a head");
        let Op::Rope(spec) = &mut p.ops[0].op else {
            return;
        };
        spec.rotary_dim = spec.rotary_dim.min(dim / 2).max(2);
    });
    const SWAPPED: Fault = Fault::Misreads(|p| p.ops[0].inputs.swap(0, 1));
    let caught: Vec<(Pattern, &'static [&'static str], Fault, &str)> = vec![
        (Pattern::ADD, &["f32"], Fault::Shifted, "the oracle has"),
        (Pattern::ADD, &["f32"], Fault::SkipsLast, "the oracle has"),
        (
            Pattern::LINEAR,
            &["bf16"],
            Fault::SkipsLastRow,
            "the oracle has",
        ),
        (Pattern::ADD, &["f32"], Fault::Refuses, "no case fitted"),
        (Pattern::RMS_NORM, &["f32"], Fault::Overruns, "wrote byte"),
        (Pattern::RMS_NORM, &["f32"], Fault::Underruns, "wrote byte"),
        (Pattern::EMBED, &["f16"], Fault::Scribbles, "of step"),
        (Pattern::SILU_MUL, &["f32"], Fault::EatsInput, "of input 0"),
        (Pattern::LINEAR, &["f32"], Fault::Races, "other bits"),
        (
            Pattern::ATTENTION,
            &["bf16"],
            Fault::PlaceDependent,
            "where in the batch",
        ),
        (Pattern::LINEAR, &["f16"], NO_BIAS, "the oracle has"),
        (Pattern::ATTENTION, &["f32"], NO_WINDOW, ""),
        (Pattern::ATTENTION, &["f32"], WRONG_GROUPS, "the oracle has"),
        (Pattern::ATTENTION, &["f32"], WRONG_PAGES, "the oracle has"),
        (Pattern::KV_APPEND, &["f32"], WRONG_PAGES, "wrote byte"),
        (Pattern::KV_APPEND, &["bf16"], SWAPPED, "the oracle stores"),
        (Pattern::RMS_NORM, &["f32"], NO_OFFSET, "the oracle has"),
        (Pattern::ROPE, &["f32"], LESS_ROTARY, "the oracle has"),
        (Pattern::ARGMAX, &["f32"], Fault::LastTie, "the oracle has"),
    ];
    for (pattern, quant, fault, says) in caught {
        let layer = pattern.layer();
        let report = gate(pattern, quant, Act::F32, fault);
        let text = report.to_string();
        assert!(!report.passed(), "{layer} with {fault:?} passed: {text}");
        assert!(text.contains(says), "{layer} with {fault:?}: {text}");
        println!("{text}");
    }
}

/// Whether to declare the access of that number.
type Keep = fn(usize) -> bool;

/// An add that forgets some of its declarations.
struct Silent {
    spec: KernelSpec,
    /// Which of the accesses `Binds` implies it declares.
    keep: Keep,
}

impl Kernel for Silent {
    fn spec(&self) -> &KernelSpec {
        &self.spec
    }

    fn fits(&self, _: &Problem) -> Result<(), String> {
        Ok(())
    }

    fn prepare(&self, p: &Problem, _: &dyn Device) -> Result<Box<dyn Prepared>, KernelError> {
        Ok(Box::new(SilentPrepared(p.outputs[0].rows, self.keep)))
    }
}

struct SilentPrepared(registry::RowsFrom, Keep);

impl Prepared for SilentPrepared {
    fn record(&self, recorder: &mut dyn Recorder, binds: &Binds) -> Result<(), KernelError> {
        let all = binds.accesses().into_iter().enumerate();
        let kept: Vec<Access> = all.filter(|(i, _)| (self.1)(*i)).map(|(_, a)| a).collect();
        let recorder: &mut CpuRecorder = recorder
            .as_any_mut()
            .downcast_mut()
            .expect("a CPU recorder");
        let mut slice = |t: &TensorRef| -> Result<(CpuSlice<f32>, usize), KernelError> {
            let words = t.bytes as usize / 4;
            Ok((recorder.slice(&t.buffer, t.offset, words)?, t.row_stride()))
        };
        let (a, b, y) = (
            slice(&binds.inputs[0])?,
            slice(&binds.inputs[1])?,
            slice(&binds.outputs[0])?,
        );
        let step: CpuSlice<u32> = recorder.slice(&binds.step.buffer, binds.step.offset, 16)?;
        let len: usize = binds.outputs[0].shape[1..].iter().product();
        let from = self.0;
        recorder.task("silent", &kept, move |ctx| {
            // SAFETY: nothing else runs in this recording, declared or not.
            let (step, xs, zs) = unsafe { (step.get(), a.0.get(), b.0.get()) };
            let rows = match from {
                registry::RowsFrom::Logits => step[StepLayout::LOGIT_ROWS],
                _ => step[StepLayout::ROWS],
            } as usize;
            for r in ctx.share(rows) {
                for i in 0..len {
                    // SAFETY: this thread's own row.
                    let y = unsafe { y.0.get_mut(r * y.1 + i, 1) };
                    y[0] = xs[r * a.1 + i] + zs[r * b.1 + i];
                }
            }
        });
        Ok(())
    }
}

#[test]
fn undeclared_accesses_are_caught() {
    let text = |keep: Keep| {
        let kernel = Silent {
            spec: KernelSpec {
                backend: "planted",
                pattern: &Pattern::ADD,
                quant: &["f32"],
                variant: "silent",
                act: Act::F32,
                rank: 0,
                layouts: &[],
                tolerance: 1e-5,
            },
            keep,
        };
        let report = gate_one(&kernel);
        assert_eq!(report.passed(), report.failed == 0);
        (report.passed(), report.to_string())
    };
    let (sound, all) = text(|_| true);
    assert!(sound, "{all}");
    // Accesses are those of input 0, input 1, the step, output 0.
    let missing: [(Keep, &str); 4] = [
        (|i| i != 0, "reads byte 0 of input 0"),
        (|i| i != 1, "reads byte 0 of input 1"),
        (|i| i != 2, "of the step buffer"),
        (|i| i != 3, "writes byte 0 of output 0"),
    ];
    for (keep, says) in missing {
        let (sound, report) = text(keep);
        assert!(!sound && report.contains(says), "{says}: {report}");
    }
}

/// The pool's scheme names are the gate's business too: one that it cannot write
/// is a failure of the key, not a key left out.
#[test]
fn a_scheme_that_the_gate_cannot_write_fails() {
    let report = gate(Pattern::LINEAR, &["u32"], Act::F32, Fault::None);
    assert!(!report.passed() && report.to_string().contains("cannot write"));
    assert!(Scheme::find("u32").is_some());
}
