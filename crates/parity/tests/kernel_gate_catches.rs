//! The gate must be able to fail: kernels broken on purpose, one defect each,
//! and sound ones of every shape of pattern that must pass.

mod planted;

use graph::{Op, OpKind};
use hal::cpu::{CpuRecorder, CpuSlice};
use hal::{Access, Device, Recorder};
use parity::kernel_gate::{Cases, Options, run};
use parity::model_gate::{self, break_kernel};
use planted::patterns::patterns;
use planted::{Fault, gate, gate_one};
use registry::{
    Act, Binds, Kernel, KernelError, KernelSpec, NO_STATE, Pattern, Prepared, Problem, Registry,
    Scheme, StepLayout, TensorRef, patterns as composites,
};
use std::collections::BTreeSet;

#[test]
fn sound_kernels_of_any_pattern_pass() {
    for (name, pattern, quant, act) in patterns() {
        let quant = quant.to_vec().leak();
        let report = gate(pattern, quant, act, Fault::None);
        assert!(report.passed(), "{name}: {report}");
        assert!(report.cases >= 12, "{name}: {report}");
    }
}

/// Of the schemes of blocks, one in all cases, the others in three.
#[test]
fn few_pipelines_still_show_every_scheme() {
    let gate = |registry: &Registry| {
        let device = (registry.backend("cpu_simd").expect("a tree"))
            .open_device(&Default::default())
            .expect("a CPU");
        let options = Options {
            cases: Cases::FewPipelines,
            filter: Some("cpu_simd/linear/q".into()),
            ..Options::default()
        };
        run(registry, "cpu_simd", device, &options).expect("the gate runs")
    };
    let sound = gate(&Registry::collect().expect("kernels"));
    assert!(sound.passed() && sound.keys.len() > 10, "{sound}");
    let cases: BTreeSet<usize> = sound.keys.iter().map(|k| k.cases).collect();
    assert!(cases.is_subset(&BTreeSet::from([0, 3, 12])), "{sound}");
    let three = sound.keys.iter().filter(|k| k.cases == 3).count();
    assert!(three * 2 > sound.keys.len(), "{sound}");
    let broken = break_kernel("cpu_simd", OpKind::Linear, model_gate::Fault::Scale(1.01));
    let broken = gate(&broken.expect("kernels"));
    assert!(
        broken.keys.iter().all(|k| !k.passed() || k.unsupported()),
        "{broken}"
    );
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
    const NO_CAP: Fault = Fault::Misreads(|p| {
        if let Op::Attention(spec) = &mut p.ops[0].op {
            spec.softcap = None;
        }
    });
    const WRONG_PAIRS: Fault = Fault::Misreads(|p| {
        if let Op::Rope(spec) = &mut p.ops[0].op {
            spec.interleaved = false;
        }
    });
    const FROM_THE_START: Fault = Fault::Misreads(|p| {
        if let Op::Rope(spec) = &mut p.ops[0].op {
            spec.first = 0;
        }
    });
    const FEWER_ROUNDS: Fault = Fault::Misreads(|p| {
        if let Op::Rotate { rounds, .. } = &mut p.ops[0].op {
            *rounds = (*rounds - 1).max(1);
        }
    });
    const ROUTES: fn(&mut Problem) -> &mut graph::RouteSpec = |p| match &mut p.ops[0].op {
        Op::Route(spec) => spec,
        other => panic!("{other:?} is no router"),
    };
    const NO_GROUPS: Fault = Fault::Misreads(|p| ROUTES(p).groups = None);
    const NO_SUM: Fault = Fault::Misreads(|p| ROUTES(p).normalise = false);
    const NO_SCALE: Fault = Fault::Misreads(|p| ROUTES(p).scale = 1.0);
    const NO_SELECTION_BIAS: Fault = Fault::Misreads(|p| p.ops[0].inputs.truncate(1));
    const COLD: Fault = Fault::Missteps(|layout, words| {
        words[layout.inv_temps()..].fill(1f32.to_bits());
    });
    const NO_THIRD: Fault = Fault::Misreads(|p| p.ops[0].inputs.truncate(3));
    const NO_SILU: Fault = Fault::Misreads(|p| {
        if let Op::CausalConv(spec) = &mut p.ops[0].op {
            spec.silu = false;
        }
    });
    const OTHER_HEADS: Fault = Fault::Misreads(|p| {
        if let Op::GatedDelta(spec) = &mut p.ops[0].op {
            spec.tiled = !spec.tiled;
        }
    });
    const WRONG_PLACE: Fault = Fault::Misreads(|p| {
        let operands = p.inputs.iter_mut().chain(&mut p.outputs);
        for view in operands.filter_map(|o| o.state.as_mut()) {
            view.offset = 0;
        }
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
        (
            composites::ROPE_ATTEND,
            &["f16"],
            Fault::TakesSeveralRows,
            "several rows",
        ),
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
        (Pattern::TOP_K, &["f32"], Fault::LastTie, "the oracle has"),
        (
            Pattern::EXP_SUM,
            &["f32"],
            Fault::LastBit,
            "the oracle's to",
        ),
        (Pattern::EXP_SUM, &["f32"], COLD, "the oracle's to"),
        (
            Pattern::EXP_SUM,
            &["f32"],
            Fault::LongParts,
            "the oracle's to",
        ),
        (Pattern::ATTENTION, &["f16"], NO_BIAS, "the oracle has"),
        (Pattern::ATTENTION, &["f32"], NO_CAP, "the oracle has"),
        (Pattern::ROPE, &["f32"], WRONG_PAIRS, "the oracle has"),
        (Pattern::ROPE, &["f32"], FROM_THE_START, "the oracle has"),
        (Pattern::ROTATE, &["f32"], FEWER_ROUNDS, "the oracle has"),
        (Pattern::ROUTE, &["f32"], Fault::LastExpert, "experts ["),
        (Pattern::ROUTE, &["f32"], NO_GROUPS, "the oracle has"),
        (Pattern::ROUTE, &["f32"], NO_SUM, "the oracle has"),
        (Pattern::ROUTE, &["f32"], NO_SCALE, "the oracle has"),
        (
            Pattern::ROUTE,
            &["f32"],
            NO_SELECTION_BIAS,
            "the oracle has",
        ),
        (
            Pattern::EXPERT_LINEAR,
            &["q4_0"],
            Fault::SwapsExperts,
            "the oracle has",
        ),
        (
            Pattern::EXPERT_LINEAR,
            &["bf16"],
            NO_THIRD,
            "the oracle has",
        ),
        (
            Pattern::HEAD_LINEAR,
            &["f32"],
            Fault::Shifted,
            "the oracle has",
        ),
        (
            Pattern::EXPERT_SUM,
            &["f32"],
            Fault::SkipsLast,
            "the oracle has",
        ),
        (Pattern::LATENT_APPEND, &["f32"], WRONG_PAGES, "wrote byte"),
        (
            Pattern::LATENT_ATTENTION,
            &["f16"],
            WRONG_PAGES,
            "the oracle has",
        ),
        (Pattern::CAUSAL_CONV, &["f32"], NO_SILU, "the oracle has"),
        (Pattern::CAUSAL_CONV, &["f32"], NO_THIRD, "the oracle has"),
        (Pattern::CAUSAL_CONV, &["f32"], WRONG_PLACE, "wrote byte"),
        (
            Pattern::GATED_DELTA,
            &["f32"],
            OTHER_HEADS,
            "the oracle has",
        ),
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

/// The words of a step that tell where states come from and go to.
fn slots<'a>(l: &StepLayout, w: &'a mut [u32]) -> (&'a mut [u32], &'a mut [u32]) {
    let (before, out) = w.split_at_mut(l.state_out());
    (&mut before[l.state_in()..], &mut out[..l.max_rows])
}

/// What goes wrong between steps rather than in one.
#[test]
fn recurrent_states_that_go_astray_are_caught() {
    type How = fn(&StepLayout, &mut [u32]);
    let faults: [(&str, How, &str); 7] = [
        (
            "every sequence starts from nothing",
            |l, w| slots(l, w).0.fill(NO_STATE),
            "the oracle has",
        ),
        (
            "a sequence starts from another's state",
            |l, w| slots(l, w).0.rotate_left(1),
            "the oracle has",
        ),
        (
            "position 0 starts from nothing",
            |l, w| {
                for s in 0..w[StepLayout::SPANS] as usize {
                    let first = w[l.span_start() + s] as usize;
                    if first < l.max_rows && w[l.positions() + first] == 0 {
                        w[l.state_in() + s] = NO_STATE;
                    }
                }
            },
            "the oracle has",
        ),
        (
            "no state is written",
            |l, w| slots(l, w).1.fill(NO_STATE),
            "the oracle has",
        ),
        (
            "only the last row's state is written",
            |l, w| {
                for s in 0..w[StepLayout::SPANS] as usize {
                    let at = l.span_start() + s;
                    let rows = w[at] as usize..(w[at + 1] as usize).max(w[at] as usize + 1) - 1;
                    slots(l, w).1[rows].fill(NO_STATE);
                }
            },
            "state behind row",
        ),
        (
            "the state is that of the row before",
            |l, w| {
                let rows = w[StepLayout::ROWS] as usize;
                slots(l, w).1[..rows].rotate_left(1);
            },
            "the oracle has",
        ),
        (
            "the state is updated where it was read",
            |l, w| {
                for s in 0..w[StepLayout::SPANS] as usize {
                    let (start, end) = (w[l.span_start() + s], w[l.span_start() + s + 1]);
                    let from = w[l.state_in() + s];
                    if start < end && from != NO_STATE {
                        w[l.state_out() + end as usize - 1] = from;
                    }
                }
            },
            "of states",
        ),
    ];
    for pattern in [Pattern::CAUSAL_CONV, Pattern::GATED_DELTA] {
        for (name, how, says) in faults {
            let report = gate(pattern, &["f32"], Act::F32, Fault::Missteps(how));
            let text = report.to_string();
            assert!(!report.passed(), "{name}: {text}");
            assert!(text.contains(says), "{name}: {text}");
            println!("{name}: {text}");
        }
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
