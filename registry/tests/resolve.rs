//! Registration and resolution with kernels made for the test.

use graph::Op;
use hal::{Device, DeviceInfo, DeviceKind, HalError, Recorder};
use registry::*;
use std::sync::Arc;

struct Fake {
    spec: KernelSpec,
    max_rows: usize,
}

struct Nothing;

impl Prepared for Nothing {
    fn record(&self, _: &mut dyn Recorder, _: &Binds) -> Result<(), KernelError> {
        Ok(())
    }
}

impl Kernel for Fake {
    fn spec(&self) -> &KernelSpec {
        &self.spec
    }

    fn fits(&self, problem: &Problem) -> Result<(), String> {
        if problem.rows.max <= self.max_rows {
            Ok(())
        } else {
            Err(format!("at most {} rows", self.max_rows))
        }
    }

    fn prepare(&self, _: &Problem, _: &dyn Device) -> Result<Box<dyn Prepared>, KernelError> {
        Ok(Box::new(Nothing))
    }
}

const fn fake(backend: &'static str, variant: &'static str, rank: i32, max_rows: usize) -> Fake {
    Fake {
        spec: KernelSpec {
            backend,
            pattern: &Pattern::ADD,
            quant: &["f32"],
            variant,
            act: Act::F32,
            rank,
            layouts: &[],
            tolerance: 0.0,
        },
        max_rows,
    }
}

fn no_devices(_: &OpenOptions) -> Result<Vec<DeviceInfo>, HalError> {
    Ok(vec![])
}

fn no_device(_: &OpenOptions, _: usize) -> Result<Arc<dyn Device>, HalError> {
    Err(HalError::NoDevice {
        api: "fake",
        reason: "test".into(),
    })
}

macro_rules! backend {
    ($name:literal, $parent:expr) => {
        registry::inventory::submit! {
            Backend {
                name: $name, api: "fake", parent: $parent, auto: true, kv: &["f32"], rows: 512,
                hardware_only: true, probe: no_devices, open: no_device, file: file!(),
            }
        }
    };
}

backend!("child", Some("parent"));
backend!("parent", None);
backend!("stranger", None);

static SLOW: Fake = fake("child", "slow", 0, usize::MAX);
static FAST: Fake = fake("child", "fast", 5, 16);
static INHERITED: Fake = fake("parent", "inherited", 99, usize::MAX);
static FOREIGN: Fake = fake("stranger", "foreign", 99, usize::MAX);

fn registrations(kernels: &[&'static Fake]) -> Vec<Registration> {
    kernels
        .iter()
        .map(|k| Registration {
            kernel: *k,
            file: "kernels/x.rs",
        })
        .collect()
}

fn problem(max: usize) -> Problem {
    let operand = Operand {
        role: OperandRole::Activation,
        rows: RowsFrom::Batch,
        shape: vec![max, 8],
        scheme: Scheme::F32,
        layout: ROW_MAJOR,
        cache: None,
        state: None,
    };
    Problem {
        ops: vec![ProblemOp {
            op: Op::Add,
            inputs: vec![OperandSrc::Input(0), OperandSrc::Input(1)],
            shape: vec![max, 8],
            output: Some(0),
        }],
        inputs: vec![operand.clone(), operand.clone()],
        outputs: vec![operand],
        rows: RowRange { min: 1, max },
        step: Arc::new(StepLayout {
            max_rows: max,
            max_spans: 1,
            max_logit_rows: 1,
            groups: vec![],
        }),
        device: Arc::new(DeviceInfo {
            api: "fake",
            index: 0,
            name: "fake".into(),
            driver: String::new(),
            uuid: None,
            kind: DeviceKind::Cpu,
            memory_total: 0,
            features: Default::default(),
            threads: 1,
            subgroup: 1,
        }),
    }
}

fn resolve(
    kernels: &[&'static Fake],
    backend: &str,
    rows: usize,
    tuned: &Tuned,
) -> Result<(String, Why), String> {
    let all = registrations(kernels);
    let registry = Registry::from_registrations(&all).map_err(|e| e.to_string())?;
    let problem = problem(rows);
    let request = Request {
        backend,
        problem: &problem,
        tuned,
        act: None,
        variant: None,
    };
    let found = registry.resolve(&request).map_err(|e| e.to_string())?;
    Ok((found.entry.key.to_string(), found.why))
}

#[test]
fn rank_decides_among_what_fits_and_the_backend_comes_before_its_parent() {
    let all = [&SLOW, &FAST, &INHERITED, &FOREIGN];
    let none = Tuned::default();
    let pick = |rows| resolve(&all, "child", rows, &none).unwrap();
    assert_eq!(pick(16), ("child/add/f32/fast".into(), Why::Rank));
    assert_eq!(pick(17), ("child/add/f32/slow".into(), Why::Rank));
    let inherited = resolve(&[&INHERITED, &FOREIGN], "child", 1, &none).unwrap();
    assert_eq!(inherited, ("parent/add/f32/inherited".into(), Why::OnlyOne));
}

#[test]
fn a_tuned_pick_beats_rank_and_specific_picks_beat_general_ones() {
    let all = [&SLOW, &FAST, &INHERITED];
    let tuned = Tuned::parse(
        "device = \"fake\"\n\
         [[pick]]\nlayer = \"add\"\nvariant = \"slow\"\n\
         [[pick]]\nlayer = \"add\"\nquant = \"f32\"\nrows = 1\nvariant = \"inherited\"\n",
    )
    .unwrap();
    let (key, why) = resolve(&all, "child", 8, &tuned).unwrap();
    assert_eq!(
        (key.as_str(), why),
        ("parent/add/f32/inherited", Why::Tuned)
    );
    assert_eq!(tuned.variant("add", "f32", 2, None), Some("slow"));
    assert_eq!(tuned.variant("linear", "f32", 2, None), None);
    assert!(
        Tuned::parse("[[pick]]\nlayers = 1").is_err(),
        "unknown field"
    );
}

#[test]
fn nothing_falls_to_another_backend_and_the_error_lists_what_there_is() {
    let e = resolve(&[&FAST, &FOREIGN], "child", 64, &Tuned::default()).unwrap_err();
    assert!(e.contains("child/add/f32/fast (at most 16 rows)"), "{e}");
    assert!(e.contains("stranger/add/f32/foreign"), "{e}");
    let e = resolve(&[&FAST], "nowhere", 1, &Tuned::default()).unwrap_err();
    assert!(
        e.contains("'nowhere'") && e.contains("child, parent, stranger"),
        "{e}"
    );
}

#[test]
fn a_duplicate_key_names_both_files() {
    let all = [
        Registration {
            kernel: &SLOW,
            file: "kernels/a.rs",
        },
        Registration {
            kernel: &SLOW,
            file: "kernels/b.rs",
        },
    ];
    let Err(RegistryError::DuplicateKey { key, first, second }) =
        Registry::from_registrations(&all)
    else {
        panic!("a duplicate was accepted");
    };
    assert_eq!(key, "child/add/f32/slow");
    assert_eq!((first, second), ("kernels/a.rs", "kernels/b.rs"));
}

#[test]
fn malformed_patterns_are_refused() {
    use graph::OpKind::{Add, RmsNorm};
    let op = |kind, inputs| PatternOp { kind, inputs };
    let forward = [op(Add, &[Src::Op(1)]), op(RmsNorm, &[])];
    let apart = [op(Add, &[]), op(RmsNorm, &[Src::Any])];
    let chain = [op(Add, &[]), op(RmsNorm, &[Src::Op(0)])];
    let leak = |ops: &[PatternOp], outputs: &'static [usize]| Pattern {
        ops: Vec::leak(ops.to_vec()),
        outputs,
    };
    assert!(leak(&forward, &[1]).check().is_err(), "a later source");
    assert!(leak(&apart, &[1]).check().is_err(), "not connected");
    assert!(leak(&chain, &[]).check().is_err(), "no outputs");
    assert!(leak(&chain, &[2]).check().is_err(), "unknown output");
    let good = leak(&chain, &[0, 1]);
    assert!(good.check().is_ok());
    assert_eq!(good.layer().to_string(), "add+rms_norm");
    assert_eq!(good.layer().folder(), "add__rms_norm");
}

#[test]
fn step_fields_do_not_overlap() {
    let layout = StepLayout {
        max_rows: 7,
        max_spans: 3,
        max_logit_rows: 2,
        groups: vec![
            GroupLayout {
                block: 4,
                blocks: 5,
            },
            GroupLayout {
                block: 4,
                blocks: 9,
            },
        ],
    };
    let fields = [
        (0, 16),
        (layout.token_ids(), 7),
        (layout.positions(), 7),
        (layout.row_span(), 7),
        (layout.logit_rows(), 2),
        (layout.span_start(), 4),
        (layout.span_len(), 3),
        (layout.state_in(), 3),
        (layout.state_out(), 7),
        (layout.table(0), 15),
        (layout.table(1), 27),
        (layout.inv_temps(), 2),
    ];
    for pair in fields.windows(2) {
        assert_eq!(pair[0].0 + pair[0].1, pair[1].0);
    }
    assert_eq!(layout.words(), layout.inv_temps() + 2);
}
