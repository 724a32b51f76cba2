//! Kernels broken on purpose, to see the gates fail.
//!
//! A fault wraps every kernel of a CPU tree that computes some op. The wrapped
//! kernel keeps its key, so that plans choose it as they would the real one.

use super::GateError;
use graph::{AttentionSpec, Op, OpKind};
use hal::cpu::{CpuRecorder, TaskCtx};
use hal::{Access, Buffer, Device, HalError, Recorder};
use registry::{
    Binds, Kernel, KernelError, KernelSpec, NO_BLOCK, Prepared, Problem, Registration, Registry,
    StepLayout,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// What is wrong with a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Nothing: the wrapper itself must not matter.
    None,
    /// The first output is multiplied by this.
    Scale(f32),
    /// Attention sees everything instead of a window.
    NoWindow,
    /// Attention's window is this much wider.
    Window(isize),
    /// The kernel believes every row's position to be one lower.
    PositionBack,
    /// The kernel takes the first sequence's block tables for all rows.
    FirstTable,
    /// The kernel goes on with the step buffer of its first run after recording.
    FrozenStep,
    /// The first output grows a little with every run.
    Drift,
    /// Every element of the first output is off by this share of itself, up or down
    /// by lot.
    Noise { share: f32, seed: u32 },
}

/// Every registered kernel, those of `backend` that compute `op` (alone or among
/// others) broken. Error: there is none.
pub fn break_kernel(backend: &str, op: OpKind, fault: Fault) -> Result<Registry, GateError> {
    let what = format!("{backend} kernel for {op}");
    break_where(&what, fault, |spec| {
        spec.backend == backend && spec.pattern.ops.iter().any(|o| o.kind == op)
    })
}

/// The same with every composite of `backend` broken and every primitive whole.
pub fn break_composites(backend: &str, fault: Fault) -> Result<Registry, GateError> {
    let what = format!("{backend} composite");
    break_where(&what, fault, |spec| {
        spec.backend == backend && spec.pattern.ops.len() > 1
    })
}

fn break_where(
    what: &str,
    fault: Fault,
    hit: impl Fn(&KernelSpec) -> bool,
) -> Result<Registry, GateError> {
    let mut hits = 0;
    let all: Vec<Registration> = registry::inventory::iter::<Registration>()
        .map(|r| {
            let broken = hit(r.kernel.spec());
            hits += usize::from(broken);
            let kernel: &'static dyn Kernel = match broken {
                // The registry wants kernels that live as long as the program; a
                // gate makes some hundreds of a few words each.
                true => Box::leak(Box::new(Broken {
                    inner: r.kernel,
                    fault,
                })),
                false => r.kernel,
            };
            Registration {
                kernel,
                file: r.file,
            }
        })
        .collect();
    if hits == 0 {
        return Err(GateError::Empty(format!("there is no {what} to break")));
    }
    Ok(Registry::from_registrations(&all)?)
}

struct Broken {
    inner: &'static dyn Kernel,
    fault: Fault,
}

struct BrokenPrepared {
    inner: Box<dyn Prepared>,
    key: String,
    fault: Fault,
    layout: Arc<StepLayout>,
    /// The step buffer as the kernel is made to see it.
    step: Buffer,
}

impl Kernel for Broken {
    fn spec(&self) -> &KernelSpec {
        self.inner.spec()
    }

    fn fits(&self, problem: &Problem) -> Result<(), String> {
        self.inner.fits(problem)
    }

    fn prepare(
        &self,
        problem: &Problem,
        device: &dyn Device,
    ) -> Result<Box<dyn Prepared>, KernelError> {
        let mut changed = problem.clone();
        for op in &mut changed.ops {
            if let Op::Attention(spec) = op.op {
                op.op = Op::Attention(AttentionSpec {
                    window: match (self.fault, spec.window) {
                        (Fault::NoWindow, _) => None,
                        (Fault::Window(by), Some(w)) => Some(w.saturating_add_signed(by)),
                        (_, w) => w,
                    },
                    ..spec
                });
            }
        }
        Ok(Box::new(BrokenPrepared {
            inner: self.inner.prepare(&changed, device)?,
            key: self.spec().key().to_string(),
            fault: self.fault,
            layout: problem.step.clone(),
            step: device.alloc(problem.step.bytes(), "altered step")?,
        }))
    }
}

/// A bit that looks thrown.
fn lot(x: u32) -> bool {
    let x = (x ^ x >> 16).wrapping_mul(0x7feb_352d);
    let x = (x ^ x >> 15).wrapping_mul(0x846c_a68b);
    (x ^ x >> 16) & 1 == 1
}

impl BrokenPrepared {
    fn recorder<'r>(
        &self,
        recorder: &'r mut dyn Recorder,
    ) -> Result<&'r mut CpuRecorder, HalError> {
        let found = recorder.as_any_mut().downcast_mut::<CpuRecorder>();
        found.ok_or(HalError::WrongDevice {
            wanted: "cpu",
            found: "other",
        })
    }

    /// Records a copy of the step buffer, altered, and returns binds that use it.
    fn alter_step(&self, recorder: &mut dyn Recorder, binds: &Binds) -> Result<Binds, KernelError> {
        let mut altered = binds.clone();
        altered.step.buffer = self.step.clone();
        altered.step.offset = 0;
        let cpu = self.recorder(recorder)?;
        let words = self.layout.words();
        let from = cpu.slice::<u32>(&binds.step.buffer, binds.step.offset, words)?;
        let to = cpu.slice::<u32>(&self.step, 0, words)?;
        let accesses = [
            binds.step.read(),
            Access::write(&self.step, 0..self.layout.bytes()),
        ];
        let (fault, layout, frozen) = (self.fault, self.layout.clone(), AtomicBool::new(false));
        cpu.task("alter step", &accesses, move |ctx: &TaskCtx| {
            if ctx.thread != 0
                || (fault == Fault::FrozenStep && frozen.swap(true, Ordering::Relaxed))
            {
                return;
            }
            // SAFETY: a declared read, and a declared write by this thread alone.
            let (from, to) = unsafe { (from.get(), to.get_mut(0, words)) };
            to.copy_from_slice(from);
            match fault {
                Fault::PositionBack => {
                    let rows = &mut to[layout.positions()..layout.positions() + layout.max_rows];
                    rows.iter_mut().for_each(|p| *p = p.saturating_sub(1));
                }
                Fault::FirstTable => {
                    for (g, group) in layout.groups.iter().enumerate() {
                        let tables = &mut to[layout.table(g)..][..layout.max_spans * group.blocks];
                        let (first, others) = tables.split_at_mut(group.blocks);
                        for own in others.chunks_exact_mut(group.blocks) {
                            for (own, page) in own.iter_mut().zip(first.iter()) {
                                if *page != NO_BLOCK && *own != NO_BLOCK {
                                    *own = *page;
                                }
                            }
                        }
                    }
                }
                _ => {}
            }
        });
        Ok(altered)
    }

    /// Records a change of the first output.
    fn alter_output(&self, recorder: &mut dyn Recorder, binds: &Binds) -> Result<(), KernelError> {
        let Some(out) = binds.outputs.first() else {
            return Ok(());
        };
        let cpu = self.recorder(recorder)?;
        let data = cpu.slice::<f32>(&out.buffer, out.offset, out.bytes as usize / 4)?;
        let (fault, runs) = (self.fault, AtomicU32::new(0));
        cpu.task(
            format!("{} altered", self.key),
            &[out.read(), out.write()],
            move |ctx| {
                if ctx.thread != 0 {
                    return;
                }
                let run = runs.fetch_add(1, Ordering::Relaxed);
                // SAFETY: a declared write, by this thread alone.
                let data = unsafe { data.get_mut(0, data.len()) };
                let factor = match fault {
                    Fault::Scale(factor) => factor,
                    Fault::Noise { share, seed } => {
                        let lots = (0u32..).map(|i| lot(i ^ seed));
                        let pairs = data.iter_mut().zip(lots);
                        pairs.for_each(|(x, up)| *x *= if up { 1.0 + share } else { 1.0 - share });
                        return;
                    }
                    _ => 1.0 + run as f32 * 1e-6,
                };
                data.iter_mut().for_each(|x| *x *= factor);
            },
        );
        Ok(())
    }
}

impl Prepared for BrokenPrepared {
    fn workspace(&self) -> u64 {
        self.inner.workspace()
    }

    fn record(&self, recorder: &mut dyn Recorder, binds: &Binds) -> Result<(), KernelError> {
        match self.fault {
            Fault::PositionBack | Fault::FirstTable | Fault::FrozenStep => {
                let altered = self.alter_step(recorder, binds)?;
                self.inner.record(recorder, &altered)
            }
            Fault::Scale(_) | Fault::Drift | Fault::Noise { .. } => {
                self.inner.record(recorder, binds)?;
                self.alter_output(recorder, binds)
            }
            Fault::None | Fault::NoWindow | Fault::Window(_) => self.inner.record(recorder, binds),
        }
    }
}
