//! The dimensions that cases are made of.

use super::batch::Split;
use super::rng::{Deck, Rng};
use graph::{CacheKind, ConvSpec, DeltaSpec, Op, RouteGroups, RouteScore, RouteSpec};
use registry::Problem;

/// Everything about a case that its pattern leaves open.
#[derive(Clone, Debug)]
pub struct Dims {
    /// Real rows, within the bucket.
    pub rows: usize,
    pub bucket: (usize, usize),
    /// Whether ops outside of any batch-only pattern run on logit rows.
    pub on_logits: bool,
    pub all_logits: bool,
    /// Columns of matrices, one for each value that a linear reads.
    pub k: Vec<usize>,
    /// Rows of matrices.
    pub n: Vec<usize>,
    /// Widths of values that no linear reads or writes.
    pub width: Vec<usize>,
    pub vocab: usize,
    /// Logits that top_k reads and keeps, which may be more than there are.
    pub largest: (usize, usize),
    /// Logits that exp_sum reads, and the parts that it sums.
    pub summed: (usize, usize),
    pub head_dim: usize,
    pub kv_heads: usize,
    /// Query heads of each kv head.
    pub group: usize,
    /// Heads of a delta rule, value heads of each, and their dk and dv.
    pub key_heads: usize,
    pub value_group: usize,
    pub delta_dims: (usize, usize),
    /// Elements of a latent vector that are values, and those behind them.
    pub latent: (usize, usize),
    /// The part of a head that is rotated: all, or one in so many.
    pub rotary_parts: usize,
    /// Rotate the end of a head instead of its start.
    pub rotary_last: bool,
    pub interleaved: bool,
    /// Whether each op has its optional input.
    pub bias: Vec<bool>,
    pub sinks: bool,
    /// Whether a norm that fits both is taken over heads.
    pub per_head: bool,
    /// Whether a norm of rows of several dimensions is taken over all of them.
    pub norm_all: bool,
    /// One gate for a whole row, where nothing says otherwise.
    pub row_gate: bool,
    /// Of an expert's matrix, and of what a router chooses from.
    pub experts: usize,
    pub routed: usize,
    pub top_k: usize,
    pub route: Routing,
    /// A vector of its own for each expert of a row.
    pub per_expert: bool,
    pub conv: ConvSpec,
    pub delta: DeltaSpec,
    /// Rounds and group of a rotation.
    pub rotation: (usize, usize),
    pub split: Split,
    pub past: Vec<usize>,
    pub window: Option<usize>,
    pub softcap: Option<f32>,
    /// Tokens of a block.
    pub block: usize,
    /// Token-major pages instead of head-major ones.
    pub token_major: bool,
    pub eps: f32,
    pub weight_offset: f32,
    pub attention_factor: f32,
    pub mode: Mode,
    /// Elements between the end of a row and the next, one for each operand.
    pub gap: Vec<usize>,
}

/// Three of the largest blocks.
const MANY_COLUMNS: usize = 768;

/// Most rows of a case of a plan's problem: what the oracle computes in time.
const PLAN_ROWS: usize = 160;

impl Dims {
    /// Those of a plan's problem, which leaves open only the batch and the data;
    /// `turn` varies them.
    pub fn of(problem: &Problem, turn: usize) -> Dims {
        let views = || problem.inputs.iter().filter_map(|o| o.cache);
        let window = problem.ops.iter().find_map(|o| match &o.op {
            Op::Attention(spec) => Some(spec.window),
            _ => None,
        });
        let window = window.unwrap_or_else(|| match views().next()?.kind {
            CacheKind::Window { window } => Some(window),
            CacheKind::Full | CacheKind::Recurrent => None,
        });
        let tables = problem.ops.iter().filter(|o| matches!(o.op, Op::Embed));
        let vocab = tables.filter_map(|o| match o.inputs[0] {
            registry::OperandSrc::Input(n) => problem.inputs[n].shape.first(),
            registry::OperandSrc::Op(_) => None,
        });
        let (min, max) = (problem.rows.min, problem.rows.max);
        let most = max.min(PLAN_ROWS.max(min));
        let context = views().map(|v| problem.step.groups[v.group].blocks * v.block);
        Dims {
            rows: [most, min, (min + most) / 2][turn % 3].min(context.min().unwrap_or(most)),
            bucket: (min, max),
            on_logits: false,
            all_logits: false,
            k: Vec::new(),
            n: Vec::new(),
            width: Vec::new(),
            vocab: vocab.copied().min().unwrap_or(1),
            head_dim: views().next().map_or(1, |v| v.head_dim),
            kv_heads: views().next().map_or(1, |v| v.kv_heads),
            group: 1,
            key_heads: 1,
            value_group: 1,
            delta_dims: (1, 1),
            latent: (1, 1),
            rotary_parts: 1,
            rotary_last: false,
            interleaved: false,
            bias: Vec::new(),
            sinks: false,
            per_head: false,
            norm_all: false,
            row_gate: false,
            experts: 1,
            routed: 1,
            largest: (1, 1),
            summed: (1, 1),
            top_k: 1,
            route: Routing::default(),
            per_expert: false,
            conv: CONV,
            delta: DELTA,
            rotation: (1, 2),
            split: [Split::Mixed, Split::One, Split::Singles][turn % 3],
            past: vec![turn, 470, 16, 100],
            window,
            softcap: None,
            block: views().next().map_or(1, |v| v.block),
            token_major: false,
            eps: 0.0,
            weight_offset: 0.0,
            attention_factor: 1.0,
            mode: [Mode::Normal, Mode::Large, Mode::Coarse, Mode::Zeros][turn % 4],
            gap: vec![0],
        }
    }
}

impl Dims {
    /// Sizes in which a mistake in a scheme of blocks shows: several blocks in a row, more
    /// rows than one tile has, numbers other than zero.
    pub fn enlarge(&mut self) {
        for k in self.k.iter_mut().filter(|k| **k < MANY_COLUMNS) {
            *k = MANY_COLUMNS;
        }
        for n in self.n.iter_mut().filter(|n| **n <= 16) {
            *n += 32;
        }
        if self.mode == Mode::Zeros {
            self.mode = Mode::Normal;
        }
    }
}

/// A router's attributes, as far as the number of experts leaves them open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Routing {
    pub sigmoid: bool,
    pub normalise: bool,
    pub scaled: bool,
    /// Groups wanted, and how many more than needed are kept.
    pub groups: Option<(usize, usize)>,
}

impl Routing {
    pub fn spec(&self, experts: usize, top_k: usize) -> RouteSpec {
        let groups = self.groups.and_then(|(count, more)| {
            let fits = experts.is_multiple_of(count) && experts / count >= 2;
            let needed = top_k.div_ceil((experts / count).max(1));
            fits.then_some(RouteGroups {
                count,
                keep: (needed + more).min(count),
            })
        });
        RouteSpec {
            top_k,
            score: match self.sigmoid {
                true => RouteScore::Sigmoid,
                false => RouteScore::Softmax,
            },
            normalise: self.normalise,
            scale: if self.scaled { 2.5 } else { 1.0 },
            groups,
        }
    }
}

const CONV: ConvSpec = ConvSpec {
    kernel: 4,
    silu: true,
};

const DELTA: DeltaSpec = DeltaSpec {
    log_decay: true,
    tiled: false,
};

/// Of these some are cut into several parts, some have fewer logits than are kept.
/// The longest is for few rows alone.
const LARGEST: [(usize, usize); 6] = [
    (9000, 64),
    (33, 64),
    (270_000, 64),
    (1000, 5),
    (9000, 40),
    (1, 1),
];

/// Parts as long as those of a large vocabulary in most, shorter than a workgroup and
/// empty ones in some.
const SUMMED: [(usize, usize); 5] = [(9000, 5), (33, 64), (5000, 1), (9000, 40), (1, 1)];

/// What values the activations take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Normal,
    /// Around 1e3.
    Large,
    Zeros,
    /// A few distinct values, so that maxima tie.
    Coarse,
}

/// Deals dimensions so that few cases cover every value of every kind.
pub struct Dealer {
    pub rng: Rng,
    rows: Deck<(usize, (usize, usize))>,
    on_logits: Deck<bool>,
    all_logits: Deck<bool>,
    k: Deck<usize>,
    n: Deck<usize>,
    width: Deck<usize>,
    vocab: Deck<usize>,
    /// Cases so far.
    dealt: usize,
    head_dim: Deck<usize>,
    kv_heads: Deck<usize>,
    group: Deck<usize>,
    value_group: Deck<usize>,
    delta_dims: Deck<(usize, usize)>,
    latent: Deck<(usize, usize)>,
    rotary: Deck<(usize, bool, bool)>,
    bias: Deck<bool>,
    seldom: [Deck<bool>; 3],
    per_head: Deck<bool>,
    experts: Deck<usize>,
    routed: Deck<usize>,
    top_k: Deck<usize>,
    groups: Deck<Option<(usize, usize)>>,
    taps: Deck<usize>,
    flags: [Deck<bool>; 7],
    rotation: Deck<(usize, usize)>,
    split: Deck<Split>,
    past: Deck<usize>,
    window: Deck<Option<usize>>,
    softcap: Deck<Option<f32>>,
    block: Deck<usize>,
    token_major: Deck<bool>,
    offset: Deck<f32>,
    factor: Deck<f32>,
    mode: Deck<Mode>,
    gap: Deck<usize>,
}

impl Dealer {
    pub fn new(name: &str) -> Self {
        const SMALL: (usize, usize) = (2, 16);
        const MIDDLE: (usize, usize) = (17, 64);
        const LARGE: (usize, usize) = (65, 192);
        Dealer {
            rng: Rng::named(name),
            rows: Deck::new(&[
                (1, (1, 1)),
                (2, SMALL),
                (7, SMALL),
                (16, SMALL),
                (17, MIDDLE),
                (40, MIDDLE),
                (65, LARGE),
                (130, LARGE),
            ]),
            on_logits: Deck::new(&[false, false, true]),
            all_logits: Deck::new(&[false, true]),
            k: Deck::new(&[40, 66, 256, 768]),
            n: Deck::new(&[1, 15, 16, 17, 100]),
            width: Deck::new(&[1, 17, 64, 66, 256, 768]),
            vocab: Deck::new(&[1, 33, 1000]),
            dealt: 0,
            head_dim: Deck::new(&[16, 24, 64, 80, 128]),
            kv_heads: Deck::new(&[1, 2, 3]),
            group: Deck::new(&[1, 2, 4, 8]),
            value_group: Deck::new(&[1, 2, 3]),
            delta_dims: Deck::new(&[(16, 16), (24, 40), (32, 32), (64, 16), (128, 128), (7, 66)]),
            latent: Deck::new(&[(16, 8), (40, 24), (64, 16), (66, 6), (512, 64)]),
            // Mostly as most models do: fast kernels know nothing else.
            rotary: Deck::new(&[
                (1, false, false),
                (1, false, false),
                (2, false, false),
                (1, false, true),
                (2, true, false),
                (2, true, true),
            ]),
            bias: Deck::new(&[false, true]),
            seldom: std::array::from_fn(|_| Deck::new(&[false, false, false, true])),
            per_head: Deck::new(&[false, true]),
            experts: Deck::new(&[1, 3, 8, 16]),
            routed: Deck::new(&[2, 7, 8, 16, 60, 256]),
            top_k: Deck::new(&[1, 2, 3, 4, 8]),
            groups: Deck::new(&[
                None,
                None,
                Some((2, 0)),
                Some((4, 1)),
                Some((4, 0)),
                Some((8, 2)),
            ]),
            taps: Deck::new(&[2, 3, 4, 4, 5]),
            flags: std::array::from_fn(|_| Deck::new(&[false, true])),
            rotation: Deck::new(&[(1, 2), (8, 8), (3, 32), (8, 128)]),
            split: Deck::new(&[Split::One, Split::Singles, Split::Mixed, Split::WithEmpty]),
            past: Deck::new(&[0, 0, 1, 15, 16, 100, 470]),
            window: Deck::new(&[None, None, Some(1), Some(5), Some(33), Some(200)]),
            softcap: Deck::new(&[None, None, None, Some(1.5)]),
            block: Deck::new(&[16, 16, 32, 7]),
            token_major: Deck::new(&[false, false, true]),
            offset: Deck::new(&[0.0, 0.0, 1.0]),
            factor: Deck::new(&[1.0, 1.13]),
            mode: Deck::new(&[
                Mode::Normal,
                Mode::Normal,
                Mode::Coarse,
                Mode::Large,
                Mode::Zeros,
            ]),
            gap: Deck::new(&[0, 0, 3, 4, 64]),
        }
    }

    /// Another batch, and other data, for the same problem.
    pub fn vary(&mut self, d: &mut Dims) {
        let rng = &mut self.rng;
        let (least, most) = d.bucket;
        d.rows = least + rng.below(most - least + 1);
        d.split = self.split.draw(rng);
        d.past = (0..most.min(16)).map(|_| self.past.draw(rng)).collect();
        // Under a window it also says which cache there is.
        if d.window.is_none() {
            d.mode = self.mode.draw(rng);
        }
        for gap in &mut d.gap {
            *gap = self.gap.draw(rng);
        }
    }

    /// Dimensions for a pattern with `ops` ops.
    pub fn deal(&mut self, ops: usize) -> Dims {
        let rng = &mut self.rng;
        let (rows, bucket) = self.rows.draw(rng);
        let several = 3 * ops + 3;
        let (rotary_parts, rotary_last, interleaved) = self.rotary.draw(rng);
        let [sinks, norm_all, row_gate] = self.seldom.each_mut().map(|deck| deck.draw(rng));
        let flags = self.flags.each_mut().map(|deck| deck.draw(rng));
        let delta_dims = self.delta_dims.draw(rng);
        // By turns, so that what kernels of other ops are dealt does not depend on it.
        let largest = LARGEST[self.dealt % LARGEST.len()];
        let summed = SUMMED[self.dealt % SUMMED.len()];
        let (wide, paging) = (self.dealt % 2 == 1, self.dealt % 3);
        self.dealt += 1;
        // Few heads where they are large.
        let delta_heads = (40_000 / (delta_dims.0 * delta_dims.1)).clamp(1, 3);
        Dims {
            rows,
            bucket,
            on_logits: self.on_logits.draw(rng),
            all_logits: self.all_logits.draw(rng),
            k: (0..several).map(|_| self.k.draw(rng)).collect(),
            n: (0..several).map(|_| self.n.draw(rng)).collect(),
            width: (0..several).map(|_| self.width.draw(rng)).collect(),
            vocab: self.vocab.draw(rng),
            largest,
            summed,
            head_dim: match self.head_dim.draw(rng) {
                128 if wide => 256,
                dim => dim,
            },
            kv_heads: self.kv_heads.draw(rng),
            group: self.group.draw(rng),
            key_heads: 1 + rng.below(delta_heads),
            value_group: self.value_group.draw(rng).min(delta_heads),
            delta_dims,
            latent: self.latent.draw(rng),
            rotary_parts,
            rotary_last,
            interleaved,
            bias: (0..ops).map(|_| self.bias.draw(rng)).collect(),
            sinks,
            norm_all,
            row_gate,
            experts: self.experts.draw(rng),
            routed: self.routed.draw(rng),
            top_k: self.top_k.draw(rng),
            route: Routing {
                sigmoid: flags[0],
                normalise: flags[1],
                scaled: flags[2],
                groups: self.groups.draw(rng),
            },
            per_expert: flags[3],
            conv: ConvSpec {
                kernel: self.taps.draw(rng),
                silu: flags[4],
            },
            delta: DeltaSpec {
                log_decay: flags[5],
                tiled: flags[6],
            },
            rotation: self.rotation.draw(rng),
            per_head: self.per_head.draw(rng),
            split: self.split.draw(rng),
            past: (0..bucket.1.min(16)).map(|_| self.past.draw(rng)).collect(),
            window: self.window.draw(rng),
            softcap: self.softcap.draw(rng),
            // Smaller and larger pages than anybody has, too.
            block: match (self.block.draw(rng), paging) {
                (16, 0) => 8,
                (32, 1) => 256,
                (block, _) => block,
            },
            token_major: self.token_major.draw(rng),
            eps: if rng.chance(2) { 1e-5 } else { 1e-6 },
            weight_offset: self.offset.draw(rng),
            attention_factor: self.factor.draw(rng),
            mode: self.mode.draw(rng),
            gap: (0..several).map(|_| self.gap.draw(rng)).collect(),
        }
    }
}
