//! The dimensions that cases are made of.

use super::batch::Split;
use super::rng::{Deck, Rng};
use graph::{CacheKind, Op};
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
    pub head_dim: usize,
    pub kv_heads: usize,
    /// Query heads of each kv head.
    pub group: usize,
    pub rotary_dim: usize,
    pub bias: Vec<bool>,
    /// Whether a norm that fits both is taken over heads.
    pub per_head: bool,
    pub split: Split,
    pub past: Vec<usize>,
    pub window: Option<usize>,
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
            rotary_dim: 0,
            bias: Vec::new(),
            per_head: false,
            split: [Split::Mixed, Split::One, Split::Singles][turn % 3],
            past: vec![turn, 470, 16, 100],
            window,
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
    head_dim: Deck<usize>,
    kv_heads: Deck<usize>,
    group: Deck<usize>,
    rotary: Deck<usize>,
    bias: Deck<bool>,
    per_head: Deck<bool>,
    split: Deck<Split>,
    past: Deck<usize>,
    window: Deck<Option<usize>>,
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
            head_dim: Deck::new(&[16, 24, 64, 80, 128]),
            kv_heads: Deck::new(&[1, 2, 3]),
            group: Deck::new(&[1, 2, 4, 8]),
            rotary: Deck::new(&[1, 1, 2]),
            bias: Deck::new(&[false, true]),
            per_head: Deck::new(&[false, true]),
            split: Deck::new(&[Split::One, Split::Singles, Split::Mixed, Split::WithEmpty]),
            past: Deck::new(&[0, 0, 1, 15, 16, 100, 470]),
            window: Deck::new(&[None, None, Some(1), Some(5), Some(33), Some(200)]),
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

    /// Dimensions for a pattern with `ops` ops.
    pub fn deal(&mut self, ops: usize) -> Dims {
        let rng = &mut self.rng;
        let (rows, bucket) = self.rows.draw(rng);
        let head_dim = self.head_dim.draw(rng);
        let several = 3 * ops + 3;
        Dims {
            rows,
            bucket,
            on_logits: self.on_logits.draw(rng),
            all_logits: self.all_logits.draw(rng),
            k: (0..several).map(|_| self.k.draw(rng)).collect(),
            n: (0..several).map(|_| self.n.draw(rng)).collect(),
            width: (0..several).map(|_| self.width.draw(rng)).collect(),
            vocab: self.vocab.draw(rng),
            head_dim,
            kv_heads: self.kv_heads.draw(rng),
            group: self.group.draw(rng),
            rotary_dim: head_dim / self.rotary.draw(rng),
            bias: (0..ops).map(|_| self.bias.draw(rng)).collect(),
            per_head: self.per_head.draw(rng),
            split: self.split.draw(rng),
            past: (0..bucket.1.min(16)).map(|_| self.past.draw(rng)).collect(),
            window: self.window.draw(rng),
            block: self.block.draw(rng),
            token_major: self.token_major.draw(rng),
            eps: if rng.chance(2) { 1e-5 } else { 1e-6 },
            weight_offset: self.offset.draw(rng),
            attention_factor: self.factor.draw(rng),
            mode: self.mode.draw(rng),
            gap: (0..several).map(|_| self.gap.draw(rng)).collect(),
        }
    }
}
