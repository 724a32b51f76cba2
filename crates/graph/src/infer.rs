//! What each op requires of its operands, and the shapes that it yields.

use crate::op::{Op, RouteSpec};
use crate::value::{CacheEntry, Dim, ElemType, Shape, Value, ValueKind};

impl Op {
    /// The outputs that this op yields for these inputs, or what is wrong with
    /// the inputs.
    pub fn infer(&self, ins: &[&Value]) -> Result<Vec<(Shape, ValueKind)>, String> {
        let f32_act = |shape: Shape| (shape, ValueKind::Activation(ElemType::F32));
        let arity = |lo: usize, hi: usize| {
            if (lo..=hi).contains(&ins.len()) {
                Ok(())
            } else {
                Err(format!("takes {lo} to {hi} inputs, got {}", ins.len()))
            }
        };
        match self {
            Op::Embed => {
                arity(1, 1)?;
                let [Dim::Fixed(_), Dim::Fixed(h)] = ins[0].shape.dims() else {
                    return Err(format!("table must be [V, H], got {}", ins[0].shape));
                };
                Ok(vec![f32_act(Shape::rows(&[*h]))])
            }
            Op::RmsNorm { eps, .. } => {
                arity(2, 2)?;
                if !(eps.is_finite() && *eps >= 0.0) {
                    return Err(format!("eps must be finite and not negative, got {eps}"));
                }
                activation(ins[0], "x")?;
                let d = vector(ins[1], "weight")?;
                if !trailing_products(&ins[0].shape).any(|p| p == d) {
                    return Err(format!(
                        "weight {} does not match the trailing dimensions of x {}",
                        ins[1].shape, ins[0].shape
                    ));
                }
                Ok(vec![f32_act(ins[0].shape.clone())])
            }
            Op::Linear { out } => {
                arity(2, 3)?;
                activation(ins[0], "x")?;
                let k = ins[0].shape.fixed_len().ok_or("K overflows")?;
                let n = out.iter().try_fold(1usize, |a, &b| a.checked_mul(b));
                let n = n.ok_or("N overflows")?;
                if ins[1].shape != Shape::fixed(&[n, k]) {
                    return Err(format!(
                        "weight must be [{n}, {k}] for x {} and out {out:?}, got {}",
                        ins[0].shape, ins[1].shape
                    ));
                }
                if let Some(b) = ins.get(2)
                    && b.shape != Shape::fixed(&[n])
                {
                    return Err(format!("bias must be [{n}], got {}", b.shape));
                }
                let lead = ins[0].shape.leading().ok_or("x has no rows dimension")?;
                Ok(vec![f32_act(Shape::lead(lead, out))])
            }
            Op::RopeTable { attention_factor } => {
                arity(1, 1)?;
                if !attention_factor.is_finite() {
                    return Err("attention_factor must be finite".into());
                }
                let half = ins[0].shape.last().ok_or("inv_freq must be [D/2]")?;
                Ok(vec![f32_act(Shape::rows(&[2 * half]))])
            }
            Op::Rope(spec) => {
                arity(2, 2)?;
                let (_, d) = heads(ins[0], "x")?;
                let (first, n) = (spec.first, spec.rotary_dim);
                if n == 0 || n % 2 != 0 || n > d || first > d - n {
                    return Err(format!(
                        "elements {first}..{first} + {n} of a head of {d} cannot be rotated: rotary_dim must be even and lie in the head"
                    ));
                }
                if ins[1].shape != Shape::rows(&[spec.rotary_dim]) {
                    return Err(format!(
                        "table must be [T, {}], got {}",
                        spec.rotary_dim, ins[1].shape
                    ));
                }
                Ok(vec![f32_act(ins[0].shape.clone())])
            }
            Op::KvAppend => {
                arity(3, 3)?;
                let (kv_heads, head_dim) = key_value(ins[2])?;
                for (v, what) in [(ins[0], "k"), (ins[1], "v")] {
                    if heads(v, what)? != (kv_heads, head_dim) {
                        return Err(format!(
                            "{what} {} does not match the cache's {kv_heads} heads of {head_dim}",
                            v.shape
                        ));
                    }
                }
                Ok(vec![next_version(ins[2])])
            }
            Op::Attention(spec) => {
                arity(2, 3)?;
                let (h, d) = heads(ins[0], "q")?;
                let (kv_heads, head_dim) = key_value(ins[1])?;
                if head_dim != d || kv_heads == 0 || h % kv_heads != 0 {
                    return Err(format!(
                        "{h} query heads of {d} do not fit {kv_heads} kv heads of {head_dim}"
                    ));
                }
                if !spec.scale.is_finite() || spec.window == Some(0) {
                    return Err("scale must be finite and window positive".into());
                }
                if let Some(cap) = spec.softcap {
                    positive(cap, "softcap")?;
                }
                if let Some(sinks) = ins.get(2) {
                    vector_of(sinks, "sinks", h)?;
                }
                Ok(vec![f32_act(ins[0].shape.clone())])
            }
            Op::GatedMul(_) | Op::Add => {
                arity(2, 2)?;
                let lead = activation(ins[0], "a")?;
                activation(ins[1], "b")?;
                let one_gate =
                    matches!(self, Op::GatedMul(_)) && ins[0].shape == Shape::lead(lead, &[1]);
                if ins[0].shape != ins[1].shape
                    && !(one_gate && ins[1].shape.leading() == Some(lead))
                {
                    return Err(format!("shapes {} and {}", ins[0].shape, ins[1].shape));
                }
                Ok(vec![f32_act(ins[1].shape.clone())])
            }
            Op::Scale { factor: value } | Op::SoftCap { cap: value } => {
                arity(1, 1)?;
                activation(ins[0], "x")?;
                match self {
                    Op::SoftCap { cap } => positive(*cap, "cap")?,
                    _ if value.is_finite() => {}
                    _ => return Err(format!("factor must be finite, got {value}")),
                }
                Ok(vec![f32_act(ins[0].shape.clone())])
            }
            Op::Route(spec) => {
                arity(1, 2)?;
                let experts = row_width(ins[0], "logits")?;
                if let Some(bias) = ins.get(1) {
                    vector_of(bias, "bias", experts)?;
                }
                check_route(spec, experts)?;
                Ok(vec![
                    f32_act(Shape::rows(&[spec.top_k])),
                    (
                        Shape::rows(&[spec.top_k]),
                        ValueKind::Activation(ElemType::U32),
                    ),
                ])
            }
            Op::ExpertLinear { experts } => {
                arity(3, 4)?;
                let k = chosen(ins[2])?;
                let width = match rows_of(ins[0], "x")?.as_slice() {
                    [w] => *w,
                    [per_row, w] if *per_row == k => *w,
                    _ => {
                        return Err(format!(
                            "x must be [T, K] or [T, {k}, K], got {}",
                            ins[0].shape
                        ));
                    }
                };
                let n = stacked(ins[1], *experts, width, "experts")?;
                if let Some(bias) = ins.get(3) {
                    vector_of(bias, "bias", experts * n)?;
                }
                Ok(vec![f32_act(Shape::rows(&[k, n]))])
            }
            Op::ExpertSum => {
                arity(2, 2)?;
                let (k, h) = heads(ins[0], "y")?;
                if row_width(ins[1], "weights")? != k {
                    return Err(format!("weights must be [T, {k}], got {}", ins[1].shape));
                }
                Ok(vec![f32_act(Shape::rows(&[h]))])
            }
            Op::HeadLinear => {
                arity(2, 2)?;
                let (h, k) = heads(ins[0], "x")?;
                let n = stacked(ins[1], h, k, "heads")?;
                Ok(vec![f32_act(Shape::rows(&[h, n]))])
            }
            Op::CausalConv(spec) => {
                arity(3, 4)?;
                let c = rows_of(ins[0], "x")?.iter().product::<usize>();
                if !(2..=64).contains(&spec.kernel) {
                    return Err(format!("kernel must be 2 to 64, got {}", spec.kernel));
                }
                vector_of(ins[1], "w", c * spec.kernel)?;
                state(ins[2], (spec.kernel - 1) * c)?;
                if let Some(bias) = ins.get(3) {
                    vector_of(bias, "bias", c)?;
                }
                Ok(vec![f32_act(ins[0].shape.clone()), next_version(ins[2])])
            }
            Op::GatedDelta(_) => {
                arity(8, 8)?;
                let (hk, dk) = heads(ins[0], "q")?;
                let (hv, dv) = heads(ins[2], "v")?;
                if ins[1].shape != ins[0].shape || !hv.is_multiple_of(hk) {
                    return Err(format!(
                        "q {}, k {} and v {} do not fit: q and k must be alike, value heads a multiple of key heads",
                        ins[0].shape, ins[1].shape, ins[2].shape
                    ));
                }
                for (v, what) in [(ins[3], "a"), (ins[4], "b")] {
                    if row_width(v, what)? != hv {
                        return Err(format!("{what} must be [T, {hv}], got {}", v.shape));
                    }
                }
                vector_of(ins[5], "decay", hv)?;
                vector_of(ins[6], "dt_bias", hv)?;
                state(ins[7], hv * dk * dv)?;
                Ok(vec![f32_act(ins[2].shape.clone()), next_version(ins[7])])
            }
            Op::LatentAppend => {
                arity(3, 3)?;
                let len = latent(ins[2])?;
                let c = row_width(ins[0], "c")?;
                let r = rows_of(ins[1], "k")?.iter().product::<usize>();
                if c + r != len {
                    return Err(format!("c of {c} and k of {r} do not fill {len}"));
                }
                Ok(vec![next_version(ins[2])])
            }
            Op::LatentAttention { scale } => {
                arity(3, 3)?;
                let (h, l) = heads(ins[0], "q_latent")?;
                let (h2, r) = heads(ins[1], "q_rope")?;
                let len = latent(ins[2])?;
                if h != h2 || l + r != len || !scale.is_finite() {
                    return Err(format!(
                        "q_latent {} and q_rope {} do not fit a cache of {len}",
                        ins[0].shape, ins[1].shape
                    ));
                }
                Ok(vec![f32_act(ins[0].shape.clone())])
            }
            Op::Rotate { rounds, group } => {
                arity(4, 4)?;
                activation(ins[0], "x")?;
                let k = vector(ins[3], "scales")?;
                if !trailing_products(&ins[0].shape).any(|p| p == k) {
                    return Err(format!(
                        "scales {} do not match the trailing dimensions of x {}",
                        ins[3].shape, ins[0].shape
                    ));
                }
                if *group == 0 || group % 2 != 0 || !k.is_multiple_of(*group) || *rounds == 0 {
                    return Err(format!(
                        "{k} elements cannot be rotated in groups of {group}, {rounds} times"
                    ));
                }
                vector_of(ins[1], "theta", rounds * k / 2)?;
                vector_of(ins[2], "pairs", rounds * k)?;
                vector_of(ins[3], "scales", k)?;
                Ok(vec![f32_act(ins[0].shape.clone())])
            }
            Op::GatherRows => {
                arity(1, 1)?;
                activation(ins[0], "x")?;
                if ins[0].shape.leading() != Some(Dim::Rows) {
                    return Err(format!("x must be [T, …], got {}", ins[0].shape));
                }
                let mut dims = ins[0].shape.0.clone();
                dims[0] = Dim::LogitRows;
                Ok(vec![f32_act(Shape(dims))])
            }
            Op::TopK { k } => {
                arity(1, 1)?;
                activation(ins[0], "logits")?;
                let lead = ins[0].shape.leading().ok_or("logits has no rows")?;
                if *k == 0 {
                    return Err("k must be at least 1".into());
                }
                Ok(vec![(
                    Shape::lead(lead, &[*k, 2]),
                    ValueKind::Activation(ElemType::U32),
                )])
            }
            Op::ExpSum { parts } => {
                arity(2, 2)?;
                activation(ins[0], "logits")?;
                let is_ids = |k: &ValueKind| matches!(k, ValueKind::Activation(ElemType::U32));
                let pairs = |dims: &[Dim]| matches!(dims, [_, Dim::Fixed(1..), Dim::Fixed(2)]);
                let leads = [&ins[0].shape, &ins[1].shape].map(Shape::leading);
                if !is_ids(&ins[1].kind) || !pairs(ins[1].shape.dims()) {
                    return Err(format!(
                        "top must be pairs of u32 [L, k, 2], not {}",
                        ins[1].shape
                    ));
                }
                if leads != [Some(Dim::LogitRows); 2] {
                    return Err("logits and top must have a row for each output".into());
                }
                if *parts == 0 {
                    return Err("parts must be at least 1".into());
                }
                Ok(vec![(
                    Shape::lead(Dim::LogitRows, &[*parts, 2]),
                    ValueKind::Activation(ElemType::U32),
                )])
            }
            Op::ArgMax => {
                arity(1, 1)?;
                activation(ins[0], "logits")?;
                let lead = ins[0].shape.leading().ok_or("logits has no rows")?;
                Ok(vec![(
                    Shape::lead(lead, &[]),
                    ValueKind::Activation(ElemType::U32),
                )])
            }
        }
    }
}

fn activation(v: &Value, what: &str) -> Result<Dim, String> {
    match (&v.kind, v.shape.leading()) {
        (ValueKind::Activation(ElemType::F32), Some(lead)) => Ok(lead),
        _ => Err(format!("{what} must be an f32 activation with rows")),
    }
}

/// The dimensions of a batch row.
fn rows_of(v: &Value, what: &str) -> Result<Vec<usize>, String> {
    activation(v, what)?;
    let fixed = |d: &Dim| match d {
        Dim::Fixed(n) if *n > 0 => Some(*n),
        _ => None,
    };
    let dims: Option<Vec<usize>> = v.shape.dims()[1..].iter().map(fixed).collect();
    match (v.shape.leading(), dims) {
        (Some(Dim::Rows), Some(dims)) => Ok(dims),
        _ => Err(format!("{what} must be [T, …], got {}", v.shape)),
    }
}

fn row_width(v: &Value, what: &str) -> Result<usize, String> {
    match rows_of(v, what)?.as_slice() {
        [n] => Ok(*n),
        _ => Err(format!("{what} must be [T, n], got {}", v.shape)),
    }
}

fn heads(v: &Value, what: &str) -> Result<(usize, usize), String> {
    match rows_of(v, what)?.as_slice() {
        [h, d] => Ok((*h, *d)),
        _ => Err(format!(
            "{what} must be [T, heads, head_dim], got {}",
            v.shape
        )),
    }
}

fn vector(v: &Value, what: &str) -> Result<usize, String> {
    match v.shape.dims() {
        [Dim::Fixed(n)] => Ok(*n),
        _ => Err(format!("{what} must be a vector, got {}", v.shape)),
    }
}

fn vector_of(v: &Value, what: &str, len: usize) -> Result<(), String> {
    match vector(v, what)? {
        n if n == len => Ok(()),
        n => Err(format!("{what} must be [{len}], got [{n}]")),
    }
}

/// Products of the last, the last two, … dimensions of a row.
fn trailing_products(shape: &Shape) -> impl Iterator<Item = usize> + '_ {
    let fixed = shape.dims().iter().rev().map_while(|d| match d {
        Dim::Fixed(n) => Some(*n),
        _ => None,
    });
    fixed.scan(1usize, |product, n| {
        *product = product.checked_mul(n)?;
        Some(*product)
    })
}

/// Rows of each of `parts` matrices `[·, k]` that lie one behind the other.
fn stacked(w: &Value, parts: usize, k: usize, what: &str) -> Result<usize, String> {
    match w.shape.dims() {
        [Dim::Fixed(rows), Dim::Fixed(width)]
            if *width == k && parts > 0 && rows.is_multiple_of(parts) =>
        {
            Ok(rows / parts)
        }
        _ => Err(format!(
            "weight must be [{parts} {what} · N, {k}], got {}",
            w.shape
        )),
    }
}

/// Experts of a row.
fn chosen(v: &Value) -> Result<usize, String> {
    match (&v.kind, v.shape.dims()) {
        (ValueKind::Activation(ElemType::U32), [Dim::Rows, Dim::Fixed(k)]) => Ok(*k),
        _ => Err(format!("experts must be [T, k] u32, got {}", v.shape)),
    }
}

fn check_route(spec: &RouteSpec, experts: usize) -> Result<(), String> {
    if spec.top_k == 0 || spec.top_k > experts || !spec.scale.is_finite() {
        return Err(format!(
            "the best {} of {experts} experts, scaled by {}, cannot be chosen",
            spec.top_k, spec.scale
        ));
    }
    if let Some(g) = spec.groups {
        let fits = g.count > 0 && experts.is_multiple_of(g.count) && experts / g.count >= 2;
        let enough = (1..=g.count).contains(&g.keep);
        if !fits || !enough || spec.top_k > g.keep * (experts / g.count) {
            return Err(format!(
                "{} of {} groups cannot hold the best {} of {experts} experts",
                g.keep, g.count, spec.top_k
            ));
        }
    }
    Ok(())
}

fn positive(x: f32, what: &str) -> Result<(), String> {
    match x.is_finite() && x > 0.0 {
        true => Ok(()),
        false => Err(format!("{what} must be finite and above 0, got {x}")),
    }
}

fn cache(v: &Value) -> Result<CacheEntry, String> {
    match &v.kind {
        ValueKind::Cache(spec) => Ok(spec.entry),
        _ => Err(format!("'{}' must be a cache", v.name)),
    }
}

/// Heads and their size of a cache of keys and values.
fn key_value(v: &Value) -> Result<(usize, usize), String> {
    match cache(v)? {
        CacheEntry::KeyValue { kv_heads, head_dim } => Ok((kv_heads, head_dim)),
        other => Err(format!("the cache must hold keys and values, not {other}")),
    }
}

fn latent(v: &Value) -> Result<usize, String> {
    match cache(v)? {
        CacheEntry::Latent { len } => Ok(len),
        other => Err(format!("the cache must hold latent vectors, not {other}")),
    }
}

fn state(v: &Value, wanted: usize) -> Result<(), String> {
    match cache(v)? {
        CacheEntry::State { len } if len == wanted => Ok(()),
        other => Err(format!(
            "the cache must hold a state of {wanted}, not {other}"
        )),
    }
}

fn next_version(cache: &Value) -> (Shape, ValueKind) {
    (cache.shape.clone(), cache.kind.clone())
}
