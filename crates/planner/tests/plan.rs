//! Planning with kernels made for the test: no device, no weights.

use graph::{
    Activation, AttentionSpec, CacheKind, CacheSpec, Graph, GraphBuilder, Op, RopeSpec, ValueId,
};
use hal::{Device, DeviceInfo, DeviceKind, HalError, Recorder};
use planner::{Limits, Place, PlanError, PlanOptions, Program, Second, Split, buckets, plan};
use registry::patterns::{ADD_NORM, GATE_UP, NORM_QKV, QK_NORM_ROPE_APPEND};
use registry::*;
use std::collections::HashMap;
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

    fn fits(&self, p: &Problem) -> Result<(), String> {
        (p.rows.max <= self.max_rows)
            .then_some(())
            .ok_or_else(|| "too many rows".into())
    }

    fn prepare(&self, _: &Problem, _: &dyn Device) -> Result<Box<dyn Prepared>, KernelError> {
        Ok(Box::new(Nothing))
    }
}

fn no_devices(_: &OpenOptions) -> Result<Vec<DeviceInfo>, HalError> {
    Ok(vec![])
}

fn no_device(_: &OpenOptions, _: usize) -> Result<Arc<dyn Device>, HalError> {
    Err(HalError::NoDevice {
        api: "t",
        reason: "test".into(),
    })
}

registry::inventory::submit! {
    Backend {
        name: "t", api: "t", parent: None, auto: false, hardware_only: false, kv: &["f32", "f16"], rows: 512,
        probe: no_devices, open: no_device, file: file!(),
    }
}

fn pack(_: &WeightShape, _: usize, _: &[u8], _: &mut [u8]) {}

registry::inventory::submit! {
    WeightLayout {
        name: "tiles", schemes: &["f32"], panel_rows: 16,
        panel_bytes: |s| Some(16 * s.row_bytes()?), pack,
    }
}

const fn of(pattern: &'static Pattern, variant: &'static str, rank: i32) -> KernelSpec {
    KernelSpec {
        backend: "t",
        pattern,
        quant: &["f32"],
        variant,
        act: Act::F32,
        rank,
        layouts: &[ROW_MAJOR],
        tolerance: 0.0,
    }
}

static ADD_NORM_LEAKY: Pattern = Pattern {
    ops: ADD_NORM.ops,
    outputs: &[1],
};

const PRIMITIVES: [&Pattern; 11] = [
    &Pattern::EMBED,
    &Pattern::RMS_NORM,
    &Pattern::LINEAR,
    &Pattern::ROPE_TABLE,
    &Pattern::ROPE,
    &Pattern::KV_APPEND,
    &Pattern::ATTENTION,
    &Pattern::SILU_MUL,
    &Pattern::ADD,
    &Pattern::GATHER_ROWS,
    &Pattern::ARGMAX,
];

/// Every primitive as `plain`, and the given kernels besides.
fn registry(extra: &[KernelSpec]) -> Registry {
    let plain = PRIMITIVES.map(|p| of(p, "plain", 0));
    let all: Vec<Registration> = plain
        .iter()
        .chain(extra)
        .map(|spec| Registration {
            kernel: Box::leak(Box::new(Fake {
                spec: *spec,
                max_rows: if spec.variant == "small" {
                    16
                } else {
                    usize::MAX
                },
            })),
            file: "kernels/t.rs",
        })
        .collect();
    Registry::from_registrations(Vec::leak(all).iter()).unwrap()
}

/// A QK-norm decoder: `kinds` gives each layer's cache.
fn decoder(kinds: &[CacheKind]) -> Graph {
    let mut g = GraphBuilder::new("decoder");
    let linear = |out: &[usize]| Op::Linear { out: out.into() };
    let norm = || Op::RmsNorm {
        eps: 1e-6,
        weight_offset: 0.0,
    };
    let mut build = || -> Result<(), graph::GraphError> {
        let table = g.matrix("embed", 64, 32)?;
        let mut h = g.op("embed", Op::Embed, &[table])?;
        let freq = g.constant("freq", vec![1.0; 4]);
        let table_op = Op::RopeTable {
            attention_factor: 1.0,
        };
        let rope = g.op("rope_table", table_op, &[freq])?;
        for (l, kind) in kinds.iter().enumerate() {
            let n = |s: &str| format!("{l}.{s}");
            g.layer(Some(l));
            let w = g.vector(&n("norm1"), 32)?;
            let x = g.op(&n("norm1"), norm(), &[h, w])?;
            let mut heads = Vec::new();
            for (name, count) in [("q", 4), ("k", 2), ("v", 2)] {
                let w = g.matrix(&n(name), count * 8, 32)?;
                heads.push(g.op(&n(name), linear(&[count, 8]), &[x, w])?);
            }
            let (wq, wk) = (g.vector(&n("qn"), 8)?, g.vector(&n("kn"), 8)?);
            let q = g.op(&n("qn"), norm(), &[heads[0], wq])?;
            let k = g.op(&n("kn"), norm(), &[heads[1], wk])?;
            let spec = || Op::Rope(RopeSpec::half_split(8));
            let q = g.op(&n("q_rope"), spec(), &[q, rope])?;
            let k = g.op(&n("k_rope"), spec(), &[k, rope])?;
            let cache = g.cache(CacheSpec {
                kind: *kind,
                ..CacheSpec::key_value(l, None, 2, 8)
            });
            let cache = g.op(&n("append"), Op::KvAppend, &[k, heads[2], cache])?;
            let spec = AttentionSpec {
                scale: 1.0,
                window: None,
                softcap: None,
            };
            let o = g.op(&n("attn"), Op::Attention(spec), &[q, cache])?;
            let w = g.matrix(&n("o"), 32, 32)?;
            let o = g.op(&n("o"), linear(&[32]), &[o, w])?;
            h = g.op(&n("add1"), Op::Add, &[h, o])?;
            let w = g.vector(&n("norm2"), 32)?;
            let x = g.op(&n("norm2"), norm(), &[h, w])?;
            let (wg, wu) = (g.matrix(&n("gate"), 48, 32)?, g.matrix(&n("up"), 48, 32)?);
            let gate = g.op(&n("gate"), linear(&[48]), &[x, wg])?;
            let up = g.op(&n("up"), linear(&[48]), &[x, wu])?;
            let y = g.op(&n("mul"), Op::GatedMul(Activation::Silu), &[gate, up])?;
            let w = g.matrix(&n("down"), 32, 48)?;
            let y = g.op(&n("down"), linear(&[32]), &[y, w])?;
            h = g.op(&n("add2"), Op::Add, &[h, y])?;
        }
        g.layer(None);
        let h = g.op("last", Op::GatherRows, &[h])?;
        let w = g.vector("norm", 32)?;
        let h = g.op("norm", norm(), &[h, w])?;
        let logits = g.op("head", linear(&[64]), &[h, table])?;
        let ids = g.op("ids", Op::ArgMax, &[logits])?;
        g.output("logits", logits);
        g.output("argmax", ids);
        Ok(())
    };
    build().unwrap();
    g.finish().unwrap()
}

fn device() -> Arc<DeviceInfo> {
    Arc::new(DeviceInfo {
        api: "t",
        index: 0,
        name: "t".into(),
        driver: String::new(),
        uuid: None,
        kind: DeviceKind::Cpu,
        memory_total: 0,
        features: Default::default(),
        threads: 1,
        subgroup: 1,
    })
}

fn options() -> PlanOptions {
    let mut o = PlanOptions::new("t");
    o.limits = Limits {
        context: 100,
        rows: 40,
        ..Limits::default()
    };
    o
}

fn planned(graph: Graph, r: &Registry, o: &PlanOptions) -> Result<Program, PlanError> {
    let schemes: HashMap<ValueId, Scheme> =
        graph.weights().map(|(id, _)| (id, Scheme::F32)).collect();
    plan(Arc::new(graph), &schemes, r, device(), o)
}

fn layers(p: &Program, rows: usize) -> Vec<String> {
    let plan = p.plan_for(rows).unwrap();
    plan.steps.iter().map(|s| s.key.layer.to_string()).collect()
}

const FULL: [CacheKind; 2] = [CacheKind::Full; 2];

#[test]
fn composites_cover_the_graph_and_no_fusion_keeps_to_primitives() {
    let r = registry(&[
        of(&ADD_NORM, "fused", 0),
        of(&NORM_QKV, "fused", 1),
        of(&GATE_UP, "fused", 0),
        of(&QK_NORM_ROPE_APPEND, "fused", 0),
    ]);
    let p = planned(decoder(&FULL), &r, &options()).unwrap();
    let layer = [
        "rms_norm+linear+linear+linear",
        "rms_norm+rms_norm+rope+rope+kv_append",
        "attention",
        "linear",
        "add+rms_norm",
        "linear+linear+silu_mul",
        "linear",
    ];
    let mut want = vec!["embed", "rope_table"];
    want.extend(layer);
    want.push("add");
    want.extend(layer);
    want.extend(["add", "gather_rows", "rms_norm", "linear", "argmax"]);
    assert_eq!(layers(&p, 1), want);

    let mut o = options();
    o.fusion = false;
    let plain = planned(decoder(&FULL), &r, &o).unwrap();
    assert!(layers(&plain, 1).iter().all(|l| !l.contains('+')));
    assert_eq!(
        plain.plans[0].steps.len(),
        plain.graph.nodes().len(),
        "every node once"
    );
}

#[test]
fn a_value_used_outside_keeps_a_composite_off() {
    let r = registry(&[of(&ADD_NORM_LEAKY, "fused", 0)]);
    let p = planned(decoder(&FULL), &r, &options()).unwrap();
    assert!(
        !layers(&p, 1).contains(&"add+rms_norm".to_string()),
        "the sum is the next residual and is not declared as an output"
    );
}

#[test]
fn a_composite_never_spans_layers() {
    // The norms of q and k have no edge between them: only convexity keeps layer
    // 0's q apart from layer 1's k.
    let r = registry(&[of(&QK_NORM_ROPE_APPEND, "fused", 0)]);
    let p = planned(decoder(&FULL), &r, &options()).unwrap();
    let steps = &p.plan_for(1).unwrap().steps;
    let fused: Vec<_> = steps.iter().filter(|s| s.nodes.len() > 1).collect();
    assert_eq!(fused.len(), 2);
    for (l, s) in fused.iter().enumerate() {
        let own = format!("{l}.");
        for n in &s.nodes {
            assert!(p.graph.node(*n).name.starts_with(&own));
        }
    }
}

#[test]
fn picks_turn_composites_on_and_off() {
    let r = registry(&[of(&ADD_NORM, "fused", 0), of(&GATE_UP, "shy", -1)]);
    let base = layers(&planned(decoder(&FULL), &r, &options()).unwrap(), 1);
    assert!(base.contains(&"add+rms_norm".into()));
    assert!(
        !base.contains(&"linear+linear+silu_mul".into()),
        "negative rank"
    );
    let mut o = options();
    o.tuned = Tuned::parse(
        "[[pick]]\nlayer = \"add+rms_norm\"\nrows = 1\nvariant = \"none\"\n\
         [[pick]]\nlayer = \"linear+linear+silu_mul\"\nvariant = \"shy\"\n",
    )
    .unwrap();
    let p = planned(decoder(&FULL), &r, &o).unwrap();
    assert!(!layers(&p, 1).contains(&"add+rms_norm".into()));
    assert!(
        layers(&p, 2).contains(&"add+rms_norm".into()),
        "rows = 1 only"
    );
    assert!(layers(&p, 1).contains(&"linear+linear+silu_mul".into()));
}

#[test]
fn one_layout_serves_all_buckets_and_consumers() {
    let tiles = |variant, rank| KernelSpec {
        layouts: &["tiles"],
        ..of(&Pattern::LINEAR, variant, rank)
    };
    // `small` exists for up to 16 rows only, so nobody could read tiles above.
    let r = registry(&[tiles("small", 9)]);
    let p = planned(decoder(&FULL), &r, &options()).unwrap();
    assert!(p.weights.iter().all(|w| w.layout == ROW_MAJOR));
    // With tiles for every row count they win, except for the tied table, which
    // embed reads row by row.
    let r = registry(&[tiles("tiled", 9)]);
    let p = planned(decoder(&FULL), &r, &options()).unwrap();
    for w in p.weights.iter().filter(|w| w.matrix) {
        let tied = w.tensor.as_deref() == Some("embed");
        assert_eq!(w.layout, if tied { ROW_MAJOR } else { "tiles" });
        let rows = if tied {
            64
        } else {
            w.shape[0].next_multiple_of(16)
        };
        assert_eq!(w.bytes, (rows * w.shape[1] * 4) as u64);
    }
}

#[test]
fn activation_formats_are_kept_to() {
    let rounded = KernelSpec {
        act: Act::Bf16,
        ..of(&Pattern::LINEAR, "rounded", 9)
    };
    let r = registry(&[rounded]);
    let p = planned(decoder(&FULL), &r, &options()).unwrap();
    let mut acts = p.acts();
    let multiplies = |n: &graph::NodeId| p.graph.node(*n).op.kind().multiplies();
    assert!(
        acts.iter()
            .all(|((_, n), a)| *a == if multiplies(n) { Act::Bf16 } else { Act::F32 })
    );
    acts.retain(|(_, n), _| multiplies(n));
    let mut o = options();
    o.acts = Some(acts.keys().map(|k| (*k, Act::F32)).collect());
    let p = planned(decoder(&FULL), &r, &o).unwrap();
    assert!(p.acts().values().all(|a| *a == Act::F32));
    o.acts = Some(acts.keys().map(|k| (*k, Act::F16)).collect());
    let e = planned(decoder(&FULL), &r, &o).err().unwrap().to_string();
    assert!(e.contains("computes in bf16, not f16"), "{e}");
}

#[test]
fn cache_groups_share_a_pool_of_equal_pages() {
    let window = CacheKind::Window { window: 24 };
    let kinds = [window, window, CacheKind::Full, window, CacheKind::Full];
    let p = planned(decoder(&kinds), &registry(&[]), &options()).unwrap();
    let of_kind = |k| p.cache.groups.iter().filter(move |g| g.kind == k);
    assert_eq!(of_kind(CacheKind::Full).count(), 1);
    assert_eq!(of_kind(window).count(), 2, "three layers in groups of two");
    // 2 layers of (k, v) × 2 heads × 32 tokens × 8 × 4 bytes, each in a buffer.
    let part = 2 * 2 * 32 * 8 * 4;
    assert_eq!(p.cache.pools[0].parts, [part, part]);
    // 4 blocks of full context; the window keeps 24 + 40 rows + a block.
    assert_eq!(p.cache.pages(), 4 + 2 * 3);
    let mut seen = std::collections::HashSet::new();
    for g in &p.cache.groups {
        for s in &g.slots {
            assert!(seen.insert(s.layer));
            assert_eq!((s.view.at(0, 1, 1, 31) + 8) as u64 * 4, part);
        }
    }
    assert_eq!(seen.len(), 5);
}

#[test]
fn errors_name_what_is_missing() {
    let r = registry(&[]);
    let mut o = options();
    o.kv = Some("q8".into());
    let e = planned(decoder(&FULL), &r, &o).err().unwrap().to_string();
    assert!(e.contains("'q8'") && e.contains("f32, f16"), "{e}");
    o.kv = Some("f16".into());
    let e = planned(decoder(&FULL), &r, &o).err().unwrap().to_string();
    assert!(
        e.contains("0.append") && e.contains("kv_append with f16"),
        "{e}"
    );
    let mut o = options();
    o.limits.context = 0;
    assert!(matches!(
        planned(decoder(&FULL), &r, &o),
        Err(PlanError::Limits(_))
    ));
}

#[test]
fn plans_are_data() {
    assert_eq!(buckets(1).len(), 1);
    assert_eq!(buckets(512)[3], RowRange { min: 65, max: 512 });
    let p = planned(decoder(&FULL), &registry(&[]), &options()).unwrap();
    assert!(p.plan_for(40).is_some() && p.plan_for(41).is_none());
    for plan in &p.plans {
        for s in &plan.steps {
            for place in s.inputs.iter().chain(&s.outputs) {
                if let Place::Arena { offset, bytes } = place {
                    assert!(offset + bytes <= plan.arenas[0]);
                }
            }
        }
    }
    let text = p.report(&p.plans[0]).to_string();
    assert!(
        text.contains("t/linear/f32/plain") && text.contains("only one"),
        "{text}"
    );
}

fn divided(graph: Graph, r: &Registry, split: Split) -> Program {
    let mut o = options();
    o.second = Some(Second {
        backend: "t".into(),
        device: device(),
        tuned: Tuned::default(),
        split,
    });
    planned(graph, r, &o).unwrap()
}

/// Nodes of each segment's steps, by name.
fn names(p: &Program, segment: usize) -> Vec<String> {
    let plan = &p.plans[0];
    let steps = &plan.steps[plan.segments[segment].steps.clone()];
    let nodes = steps.iter().flat_map(|s| &s.nodes);
    nodes.map(|n| p.graph.node(*n).name.clone()).collect()
}

const FOUR: [CacheKind; 4] = [CacheKind::Full; 4];

#[test]
fn a_divided_plan_crosses_few_edges() {
    let fused = registry(&[of(&ADD_NORM, "fused", 0), of(&GATE_UP, "fused", 0)]);
    let split = Split {
        layers: 2,
        ends: true,
        experts: 0,
    };
    let p = divided(decoder(&FOUR), &fused, split);
    for plan in &p.plans {
        let targets: Vec<usize> = plan.segments.iter().map(|s| s.target).collect();
        assert_eq!(targets, [1, 0, 1]);
        // The residual before the first norm there, the table, the rows of the head.
        let named = |c: &planner::EdgeCopy| p.graph.value(c.value).name.clone();
        let copies: Vec<String> = plan.copies.iter().map(named).collect();
        assert_eq!(copies, ["1.add2", "rope_table", "last"]);
        let rows: Vec<RowsFrom> = plan.copies.iter().map(|c| c.rows).collect();
        assert_eq!(rows, [RowsFrom::Batch, RowsFrom::Batch, RowsFrom::Logits]);
        assert_eq!(plan.copies[0].row_bytes, 32 * 4);
        for s in &plan.steps {
            let layer = |n: &graph::NodeId| p.graph.node(*n).layer;
            let own = s.nodes.iter().filter_map(layer);
            let at: Vec<usize> = own.map(|l| usize::from(l < 2)).collect();
            assert!(at.iter().all(|t| *t == s.target), "{at:?}");
        }
    }
    // The sum and the norm behind the edge stay apart, those within a side do not.
    let keys = layers(&p, 1);
    let fused = |l: &&String| l.as_str() == "add+rms_norm";
    assert_eq!(keys.iter().filter(fused).count(), 4 + 2);
    assert!(names(&p, 0).contains(&"rope_table".to_string()));
    assert!(names(&p, 2).contains(&"ids".to_string()));
    // The tied table is on one side only; caches lie with their layers.
    let tables = p
        .weights
        .iter()
        .filter(|w| w.tensor.as_deref() == Some("embed"));
    assert_eq!(tables.map(|w| w.target).collect::<Vec<_>>(), [1]);
    for g in &p.cache.groups {
        assert!(g.slots.iter().all(|s| usize::from(s.layer < 2) == g.target));
    }
    assert_eq!(p.cache.pools[0], p.cache.pools[1]);
    let text = p.report(&p.plans[0]).to_string();
    for part in [
        "holds layers 2 to 3:",
        "holds the embeddings, layers 0 to 1, the output head:",
        "segment 1 on t",
        "copy of 1.add2 from segment 0, 128 B a row",
        "copy of last from segment 1, 128 B an output row",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn nothing_is_overwritten_before_it_is_read() {
    let split = Split {
        layers: 3,
        ends: false,
        experts: 0,
    };
    let p = divided(decoder(&FOUR), &registry(&[]), split);
    for plan in &p.plans {
        // Play the plan: who last wrote each byte of each arena.
        let mut arenas: Vec<Vec<Option<ValueId>>> = (plan.arenas.iter())
            .map(|bytes| vec![None; *bytes as usize])
            .collect();
        let span = |place: &Place| match place {
            Place::Arena { offset, bytes } => *offset as usize..(offset + bytes) as usize,
            _ => 0..0,
        };
        for (i, segment) in plan.segments.iter().enumerate() {
            for c in plan.copies.iter().filter(|c| c.to == i) {
                assert_ne!(plan.segments[c.from].target, segment.target);
                arenas[segment.target][span(&c.dst)].fill(Some(c.value));
            }
            for s in &plan.steps[segment.steps.clone()] {
                let arena = &mut arenas[s.target];
                let kinds = |p: &Place| matches!(p, Place::Arena { .. });
                let (ins, outs) = values(&p, s);
                for (place, value) in s.inputs.iter().zip(ins).filter(|(p, _)| kinds(p)) {
                    assert!(arena[span(place)].iter().all(|v| *v == Some(value)));
                }
                for (place, value) in s.outputs.iter().zip(outs).filter(|(p, _)| kinds(p)) {
                    arena[span(place)].fill(Some(value));
                }
            }
            for c in plan.copies.iter().filter(|c| c.from == i) {
                let arena = &arenas[segment.target];
                assert!(arena[span(&c.src)].iter().all(|v| *v == Some(c.value)));
            }
        }
    }
}

/// The values of a primitive step's operands.
fn values(p: &Program, s: &planner::PlanStep) -> (Vec<ValueId>, Vec<ValueId>) {
    let node = p.graph.node(s.nodes[0]);
    let mut ins: Vec<ValueId> = Vec::new();
    for v in &node.inputs {
        if !ins.contains(v) {
            ins.push(*v);
        }
    }
    (ins, node.outputs.clone())
}

#[test]
fn a_split_that_takes_nothing_is_none() {
    let r = registry(&[]);
    let p = divided(decoder(&FOUR), &r, Split::default());
    let q = planned(decoder(&FOUR), &r, &options()).unwrap();
    assert!(p.second.is_none());
    let text = |p: &Program| p.report(&p.plans[0]).to_string();
    assert_eq!(text(&p), text(&q));
    // Experts of a model without any are nothing, too.
    let split = Split {
        experts: 4,
        ..Split::default()
    };
    assert!(divided(decoder(&FOUR), &r, split).second.is_none());
}
