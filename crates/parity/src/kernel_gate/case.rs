//! A case: a problem with data for every operand.

use super::batch::{Batch, Span, split};
use super::dims::{Dealer, Dims};
use super::fill::{fill, state_pool};
use super::rng::Rng;
use super::wiring::wire;
use graph::{CacheKind, Op, OpKind};
use hal::DeviceInfo;
use registry::{
    Act, CacheView, KernelSpec, NO_BLOCK, Operand, OperandRole, Problem, RowsFrom, StateView,
};
use std::sync::Arc;

/// Keys and as many values that the caches of a case hold before the step, give
/// or take: what keeps the gate quick.
const PAST_NUMBERS: usize = 120_000;

/// Elements of the recurrent states that a step leaves, give or take.
const KEPT_NUMBERS: usize = 400_000;

/// Elements of stacked experts' matrices; a plan's problem with more is gated with
/// fewer experts.
const EXPERT_NUMBERS: usize = 1 << 24;

/// Content of one external operand.
#[derive(Clone, Debug)]
pub enum Data {
    /// The real rows of an activation, contiguous.
    Rows(Vec<f32>),
    /// The same of u32.
    Ids(Vec<u32>),
    Vector(Vec<f32>),
    /// A matrix in its scheme, row-major, and the values it stands for.
    Matrix {
        bytes: Vec<u8>,
        values: Vec<f32>,
    },
    /// All pages in the cache's scheme. Cells that no row may see are NaN.
    Cache(Vec<u8>),
    /// Slots of [`Case::states`].
    State,
}

/// What a run must leave right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// Output operand `output`: the op's `which`th output.
    Rows {
        op: usize,
        which: usize,
        output: usize,
    },
    /// The cache or states, input `input`, that the op updates in place.
    Update { op: usize, input: usize },
}

/// Everything that a problem's ops leave behind, stored outputs first.
pub fn products(problem: &Problem) -> Vec<Product> {
    let ops = || problem.ops.iter().enumerate();
    let rows = ops().filter_map(|(op, o)| Some((op, o.output?, o.op.kind())));
    let rows = rows.flat_map(|(op, first, kind)| {
        let activations = match kind {
            OpKind::KvAppend | OpKind::LatentAppend => 0,
            OpKind::Route => 2,
            _ => 1,
        };
        (0..activations).map(move |which| Product::Rows {
            op,
            which,
            output: first + which,
        })
    });
    let updates = ops().filter_map(|(op, o)| {
        let (input, _) = problem.input(op, o.op.kind().updates()?)?;
        Some(Product::Update { op, input })
    });
    rows.chain(updates).collect()
}

#[derive(Clone, Debug)]
pub struct Case {
    pub problem: Problem,
    /// The kernel's activation format.
    pub act: Act,
    pub batch: Batch,
    /// One for each of `problem.inputs`.
    pub inputs: Vec<Data>,
    /// The pool of recurrent states; what no span may read is NaN.
    pub states: Vec<f32>,
    /// Elements between the rows of each input, then of each output; row_len or
    /// more.
    pub strides: Vec<usize>,
    /// What the case is, for messages.
    pub label: String,
}

impl Case {
    /// Sizes for the next case of a key, of a single row if so asked.
    pub fn sizes(spec: &KernelSpec, dealer: &mut Dealer, one_row: bool) -> Dims {
        let mut d = dealer.deal(spec.pattern.ops.len());
        if one_row {
            (d.rows, d.bucket) = (1, (1, 1));
        }
        let latent = |k| matches!(k, OpKind::LatentAppend | OpKind::LatentAttention);
        if spec.pattern.ops.iter().any(|o| latent(o.kind)) {
            d.window = None;
        }
        let has = |kind| spec.pattern.ops.iter().any(|o| o.kind == kind);
        if Case::one_row_only(spec) {
            (d.rows, d.bucket) = (1, (1, 1));
        }
        if has(OpKind::KvAppend) && has(OpKind::Attention) {
            // Heads as in most models, for they are few.
            (d.rotary_parts, d.rotary_last, d.interleaved) = (1, false, false);
            d.head_dim = if d.head_dim > 64 { 128 } else { 64 };
        }
        if has(OpKind::ExpertLinear) && has(OpKind::ExpertSum) && has(OpKind::Linear) {
            // A mixture's end: an x for each of its experts, whole tiles of columns. By
            // the dealt odds they seldom come together.
            d.per_expert = true;
            for n in &mut d.n {
                *n = n.next_multiple_of(16);
            }
        }
        d
    }

    /// Whether kernels of a pattern take one row alone: rows wait for each other's keys,
    /// or parts of a mixture stand beside others.
    pub fn one_row_only(spec: &KernelSpec) -> bool {
        let has = |kind| spec.pattern.ops.iter().any(|o| o.kind == kind);
        let of_mixture = has(OpKind::ExpertLinear) || has(OpKind::Route);
        (has(OpKind::KvAppend) && has(OpKind::Attention)) || (of_mixture && has(OpKind::Linear))
    }

    /// A case of a key in these sizes. `Err` says why the gate cannot make one.
    pub fn deal(
        spec: &KernelSpec,
        d: &Dims,
        rng: &mut Rng,
        device: &DeviceInfo,
    ) -> Result<Case, String> {
        let wired = wire(spec, d, device)?;
        let mut problem = wired.problem;
        let batch = make_batch(d, &mut problem, wired.cached, wired.group, rng);
        Case::fill(problem, spec.act, d, batch, rng)
    }

    /// The problem of a case in these sizes, before a batch adds its pages.
    pub fn problem(spec: &KernelSpec, d: &Dims, device: &DeviceInfo) -> Result<Problem, String> {
        wire(spec, d, device).map(|wired| wired.problem)
    }

    /// A case of a problem as a plan has it. `turn` varies the batch and the data.
    pub fn of(problem: &Problem, act: Act, turn: usize) -> Result<Case, String> {
        let d = Dims::of(problem, turn);
        let mut rng = Rng::named(&format!("{:?} {turn}", problem.ops));
        let mut problem = problem.clone();
        lighten(&mut problem, EXPERT_NUMBERS);
        let group = problem.inputs.iter().find_map(|o| o.cache).map(|c| c.group);
        let cached = group.is_some();
        let batch = make_batch(&d, &mut problem, cached, group.unwrap_or(0), &mut rng);
        Case::fill(problem, act, &d, batch, &mut rng)
    }

    fn fill(
        problem: Problem,
        act: Act,
        d: &Dims,
        batch: Batch,
        rng: &mut Rng,
    ) -> Result<Case, String> {
        let inputs = (0..problem.inputs.len())
            .map(|i| fill(&problem, i, act, d, &batch, rng))
            .collect::<Result<Vec<_>, _>>()?;
        let states = state_pool(&problem, &batch, rng);
        let mut inputs = inputs;
        super::fill::settle_routes(&problem, &mut inputs, d, rng)?;
        let operands = problem.inputs.iter().chain(&problem.outputs);
        let strides = (operands.zip(d.gap.iter().cycle()))
            .map(|(o, gap)| o.row_len() + if o.shape.len() > 1 { *gap } else { 0 })
            .collect();
        let label = label(&problem, d, &batch);
        Ok(Case {
            act,
            batch,
            inputs,
            states,
            strides,
            label,
            problem,
        })
    }

    /// The same work with the spans in reverse order: each row must come out
    /// with the same bits. Also the old row of each new one, by counter.
    pub fn reversed(&self) -> (Case, Vec<usize>, Vec<usize>) {
        let (batch, rows, logits) = self.batch.reversed();
        (self.rearranged(batch, &rows, &logits), rows, logits)
    }

    /// The same work in two steps, with the old rows of each: with the states that
    /// the first one leaves, the second must give what the whole does. `None` for
    /// work without recurrent states.
    pub fn halves(&self) -> Option<[(Case, Vec<usize>); 2]> {
        let operands = || self.problem.inputs.iter().chain(&self.problem.outputs);
        let states = operands().any(|o| o.role == OperandRole::State);
        let else_too =
            operands().any(|o| o.role == OperandRole::Cache || o.rows == RowsFrom::Logits);
        if !states || else_too {
            return None;
        }
        let halves = self.batch.halves(self.problem.rows.min)?;
        Some(halves.map(|(batch, order)| (self.rearranged(batch, &order, &[]), order)))
    }

    /// The case of another batch whose rows are these rows of this one's.
    fn rearranged(&self, batch: Batch, rows: &[usize], logits: &[usize]) -> Case {
        fn take<T: Copy>(x: &[T], len: usize, order: &[usize]) -> Vec<T> {
            let rows = order.iter().flat_map(|r| &x[r * len..][..len]);
            rows.copied().collect()
        }
        let mut case = self.clone();
        for (data, operand) in case.inputs.iter_mut().zip(&self.problem.inputs) {
            let order = match operand.rows {
                RowsFrom::Logits => logits,
                _ => rows,
            };
            match data {
                Data::Rows(x) => *x = take(x, operand.row_len(), order),
                Data::Ids(x) => *x = take(x, operand.row_len(), order),
                _ => {}
            }
        }
        case.batch = batch;
        case
    }

    /// Input `i` of op `op`, if it comes from outside.
    pub fn data(&self, op: usize, i: usize) -> Option<&Data> {
        self.problem.input(op, i).map(|(n, _)| &self.inputs[n])
    }

    /// Real rows of an operand.
    pub fn rows(&self, operand: &Operand) -> usize {
        self.batch.count(operand.rows)
    }

    /// The state of an operand in a slot.
    pub fn state(&self, view: &StateView, slot: u32) -> &[f32] {
        &self.states[view.at(slot as usize)..][..view.len]
    }

    /// Page of a span's position.
    pub fn page(&self, view: &CacheView, span: usize, position: usize) -> usize {
        self.batch.spans[span].table[position / view.block] as usize
    }
}

/// Splits the rows, places the spans in time and deals pages, out of order and
/// with some left over.
fn make_batch(d: &Dims, problem: &mut Problem, cached: bool, group: usize, rng: &mut Rng) -> Batch {
    // Position tables must hold far out too; caches bound the others.
    let tables_only = problem.ops.iter().all(|o| o.op.kind() == OpKind::RopeTable);
    let max_spans = problem.step.max_spans;
    let sizes = split(d.rows, max_spans, d.split, rng);
    let logit_lead = problem
        .inputs
        .iter()
        .any(|o| o.role == OperandRole::Activation && o.rows == RowsFrom::Logits);
    let mut wanted = vec![false; d.rows];
    let most = problem.step.max_logit_rows.min(d.rows);
    let count = match logit_lead {
        // A chunk of a prefill asks for no logits at all.
        _ if rng.chance(8) => 0,
        true => most,
        false => 1 + rng.below(most),
    };
    wanted[..count].fill(true);
    if logit_lead && d.rows > 2 && rng.chance(2) {
        wanted[0] = false;
    }
    rng.shuffle(&mut wanted);
    let mut wanted = wanted.into_iter();
    let most_past = (PAST_NUMBERS / (d.kv_heads * d.head_dim)).max(600);
    let context = match cached {
        true => problem.step.groups[group].blocks * d.block,
        false => usize::MAX,
    };
    let mut past = 0;
    let mut spans: Vec<Span> = Vec::new();
    for (s, rows) in sizes.iter().enumerate() {
        let mut first = d.past[s % d.past.len()];
        // A few long pasts show what many would.
        if cached && past + first > most_past {
            first %= 17;
        }
        first = first.min(context - rows);
        past += first;
        if tables_only {
            first = first * 83 + rng.below(1000);
        }
        spans.push(Span {
            first,
            tokens: (wanted.by_ref().take(*rows))
                .map(|w| (rng.below(d.vocab) as u32, w))
                .collect(),
            ..Span::default()
        });
    }
    let spare = deal_slots(problem, &mut spans, rng);
    if cached {
        let windowed = (problem.inputs.iter().filter_map(|o| o.cache))
            .any(|c| matches!(c.kind, CacheKind::Window { .. }));
        let held = |s: &Span| {
            let lo = match d.window {
                Some(w) if windowed => (s.first + 1).saturating_sub(w) / d.block,
                _ => 0,
            };
            lo..s.end().div_ceil(d.block)
        };
        let used: usize = spans.iter().map(|s| held(s).len()).sum();
        let pages = used + 3;
        let mut free: Vec<u32> = (0..pages as u32).collect();
        rng.shuffle(&mut free);
        for s in &mut spans {
            let held = held(s);
            s.table = vec![NO_BLOCK; held.end];
            for b in held {
                s.table[b] = free.pop().expect("a page for each block");
            }
        }
        let operands = problem.inputs.iter_mut().chain(&mut problem.outputs);
        for view in operands.filter_map(|o| o.cache.as_mut()) {
            view.pages = pages;
        }
    }
    Batch {
        spans,
        group,
        spare,
    }
}

/// Gives the spans slots for the states before and behind them, out of order: kept
/// behind the last row, behind every one, behind some or none. Also the slots that
/// are left.
fn deal_slots(problem: &mut Problem, spans: &mut [Span], rng: &mut Rng) -> Vec<u32> {
    let operands = problem.inputs.iter_mut().chain(&mut problem.outputs);
    let mut views: Vec<&mut StateView> = operands.filter_map(|o| o.state.as_mut()).collect();
    let Some(len) = views.iter().map(|v| v.slot_stride).max() else {
        return Vec::new();
    };
    let mut budget = KEPT_NUMBERS / len.max(1);
    let mut used = 0u32;
    let mut next = || {
        used += 1;
        used - 1
    };
    for span in spans.iter_mut() {
        let rows = span.rows();
        if !rng.chance(4) {
            span.state_in = Some(next());
        }
        span.kept = vec![None; rows];
        let Some(last) = rows.checked_sub(1) else {
            continue;
        };
        match rng.below(6) {
            0 if rows <= budget => {
                span.kept.fill_with(|| Some(next()));
                budget -= rows;
            }
            // As a speculative step does: behind each of the last few.
            1 => span.kept[rows - rows.min(3)..].fill_with(|| Some(next())),
            2 => span.kept[rng.below(rows)] = Some(next()),
            3 => {}
            _ => span.kept[last] = Some(next()),
        }
    }
    // A fork: two sequences go on from one state.
    for s in 1..spans.len() {
        let before = spans[s - 1].state_in;
        if before.is_some() && rng.chance(4) {
            spans[s].state_in = before;
        }
    }
    let slots = used + spans.len() as u32 + 1;
    let mut names: Vec<u32> = (0..slots).collect();
    rng.shuffle(&mut names);
    let rename = |slot: &mut u32| *slot = names[*slot as usize];
    for span in spans.iter_mut() {
        let all = span.kept.iter_mut().flatten();
        all.chain(&mut span.state_in).for_each(rename);
    }
    for view in &mut views {
        view.slots = slots as usize;
    }
    names[used as usize..].to_vec()
}

/// Less of what says nothing more by its amount: experts beyond those that fit into
/// memory several times over, and the states of other layers.
fn lighten(problem: &mut Problem, most: usize) {
    let stacks = problem.ops.iter().enumerate().filter_map(|(i, op)| {
        let Op::ExpertLinear { experts } = op.op else {
            return None;
        };
        let one = problem.input(i, 1)?.1.shape.iter().product::<usize>() / experts.max(1);
        Some((most / one.max(1)).max(op.shape[1]).max(8))
    });
    // One for all, since ops share what a router chose.
    if let Some(fewer) = stacks.min() {
        for i in 0..problem.ops.len() {
            let Op::ExpertLinear { experts } = problem.ops[i].op else {
                continue;
            };
            if fewer >= experts {
                continue;
            }
            let stacked = [1, 3].map(|slot| problem.input(i, slot).map(|(n, _)| n));
            for n in stacked.into_iter().flatten() {
                let rows = &mut problem.inputs[n].shape[0];
                *rows = *rows / experts * fewer;
            }
            problem.ops[i].op = Op::ExpertLinear { experts: fewer };
        }
    }
    let mut end = 0;
    let mut places: Vec<(usize, usize)> = Vec::new();
    for view in problem.inputs.iter_mut().filter_map(|o| o.state.as_mut()) {
        places.push((view.offset, end));
        view.offset = end;
        end = (end + view.len).next_multiple_of(64);
    }
    for view in problem.outputs.iter_mut().filter_map(|o| o.state.as_mut()) {
        let place = places.iter().find(|(old, _)| *old == view.offset);
        view.offset = place.map_or(view.offset, |(_, new)| *new);
    }
    let operands = problem.inputs.iter_mut().chain(&mut problem.outputs);
    for view in operands.filter_map(|o| o.state.as_mut()) {
        view.slot_stride = end;
    }
}

fn label(problem: &Problem, d: &Dims, batch: &Batch) -> String {
    let shapes = |list: &[Operand]| -> String {
        let all = list.iter().map(|o| match &o.cache {
            Some(c) => format!("cache {}x{} block {}", c.kv_heads, c.head_dim, c.block),
            None if o.state.is_some() => format!("state {}", o.state.map_or(0, |s| s.len)),
            None => format!("{:?}", o.shape),
        });
        all.collect::<Vec<_>>().join(" ")
    };
    let spans: Vec<String> = (batch.spans.iter())
        .map(|s| {
            let state = match (!batch.spare.is_empty(), s.state_in) {
                (false, _) => "",
                (true, None) => " fresh",
                (true, Some(_)) => " from a state",
            };
            format!("{}+{}{state}", s.first, s.rows())
        })
        .collect();
    // What shapes do not tell.
    let attributes: String = (problem.ops.iter())
        .map(|o| match &o.op {
            op @ (Op::Rope(_) | Op::Attention(_) | Op::Route(_)) => format!("{op:?} "),
            op @ (Op::CausalConv(_) | Op::GatedDelta(_) | Op::Rotate { .. }) => format!("{op:?} "),
            _ => String::new(),
        })
        .collect();
    let window = match d.window {
        Some(w) => format!(", window {w}"),
        None => String::new(),
    };
    format!(
        "{attributes}{} -> {}, rows {} of {}..={}, logit rows {}, spans {}{window}, {:?}",
        shapes(&problem.inputs),
        shapes(&problem.outputs),
        batch.rows(),
        problem.rows.min,
        problem.rows.max,
        batch.logit_rows(),
        spans.join(" "),
        d.mode
    )
}

/// The problem with its matrices in `layout`.
pub fn in_layout(problem: &Problem, layout: &'static str) -> Problem {
    let mut problem = problem.clone();
    for o in &mut problem.inputs {
        if o.role == OperandRole::Matrix {
            o.layout = layout;
        }
    }
    problem.device = Arc::clone(&problem.device);
    problem
}

#[cfg(test)]
mod tests {
    use super::super::{ChainOracle, ORACLE, Oracle};
    use super::*;
    use registry::{OpenOptions, Pattern, Registry};

    fn case(pattern: &'static Pattern, wanted: impl Fn(&Case) -> bool) -> Case {
        let registry = Registry::collect().expect("a sound registry");
        let oracle = registry.backend(ORACLE).expect("the oracle");
        let device = oracle.open_device(&OpenOptions::default()).expect("a CPU");
        let spec = KernelSpec {
            backend: ORACLE,
            pattern,
            quant: &["f32"],
            variant: "any",
            act: Act::F32,
            rank: 0,
            layouts: &[],
            tolerance: 0.0,
        };
        let mut dealer = Dealer::new("cases");
        let mut cases = (0..80).map(|_| {
            let d = Case::sizes(&spec, &mut dealer, false);
            Case::deal(&spec, &d, &mut dealer.rng, device.info())
        });
        let found = cases.find_map(|c| c.ok().filter(&wanted));
        found.expect("one of eighty")
    }

    #[test]
    fn too_many_experts_become_fewer() {
        let sixteen = |c: &Case| c.problem.ops[0].op == Op::ExpertLinear { experts: 16 };
        let whole = case(&Pattern::EXPERT_LINEAR, |c| {
            sixteen(c) && c.data(0, 3).is_some()
        });
        let mut problem = whole.problem.clone();
        lighten(&mut problem, 1);
        let (old, new) = (&whole.problem, &problem);
        assert_eq!(new.ops[0].op, Op::ExpertLinear { experts: 8 });
        for n in [1, 3] {
            assert_eq!(new.inputs[n].shape[0] * 2, old.inputs[n].shape[0]);
        }
        let again = Case::of(&problem, Act::F32, 0).expect("a case");
        let Some(Data::Ids(chosen)) = again.data(0, 2) else {
            panic!("no experts");
        };
        assert!(chosen.iter().all(|e| *e < 8));
        let registry = Registry::collect().expect("a sound registry");
        let oracle = ChainOracle::open(&registry).expect("a CPU");
        assert_eq!(oracle.eval(&again).expect("values").len(), 1);
    }

    #[test]
    fn halves_are_the_whole_in_two_steps() {
        let whole = case(&Pattern::CAUSAL_CONV, |c| {
            let long = c.batch.spans.iter().filter(|s| s.rows() > 3);
            long.count() > 1 && c.halves().is_some()
        });
        let [(early, first), (late, second)] = whole.halves().expect("two steps");
        let mut rows = [first, second].concat();
        rows.sort_unstable();
        assert_eq!(rows, (0..whole.batch.rows()).collect::<Vec<_>>());
        let spans = || early.batch.spans.iter().zip(&late.batch.spans);
        for (span, (a, b)) in whole.batch.spans.iter().zip(spans()) {
            assert_eq!(a.end(), b.first);
            assert_eq!(a.state_in, span.state_in);
            match a.kept.last() {
                Some(last) => assert!(last.is_some() && b.state_in == *last),
                None => assert_eq!(b.state_in, span.state_in),
            }
            // All that was kept is kept by one of the two.
            let cut = a.rows();
            assert_eq!(b.kept, span.kept[cut..]);
            let kept = span.kept[..cut].iter().zip(&a.kept);
            assert!(kept.clone().all(|(s, a)| s.is_none() || s == a));
        }
    }
}
