//! Values: what flows along the edges of a graph.

use std::fmt;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl ValueId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl NodeId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One dimension; the symbolic ones are bound when a plan picks a shape bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    Fixed(usize),
    /// Tokens in the ragged batch, summed over its spans.
    Rows,
    /// Tokens whose logits were asked for.
    LogitRows,
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Rows => f.write_str("T"),
            Dim::LogitRows => f.write_str("L"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    pub fn fixed(dims: &[usize]) -> Self {
        Shape(dims.iter().map(|&d| Dim::Fixed(d)).collect())
    }

    pub fn rows(dims: &[usize]) -> Self {
        Self::lead(Dim::Rows, dims)
    }

    pub fn lead(first: Dim, dims: &[usize]) -> Self {
        Shape(
            std::iter::once(first)
                .chain(dims.iter().map(|&d| Dim::Fixed(d)))
                .collect(),
        )
    }

    pub fn dims(&self) -> &[Dim] {
        &self.0
    }

    /// The symbolic leading dimension, if there is one.
    pub fn leading(&self) -> Option<Dim> {
        self.0
            .first()
            .copied()
            .filter(|d| !matches!(d, Dim::Fixed(_)))
    }

    /// Product of the fixed dimensions: elements per row for an activation, all
    /// elements for a weight. `None` on overflow.
    pub fn fixed_len(&self) -> Option<usize> {
        self.0.iter().try_fold(1usize, |n, d| match d {
            Dim::Fixed(k) => n.checked_mul(*k),
            _ => Some(n),
        })
    }

    pub fn last(&self) -> Option<usize> {
        match self.0.last() {
            Some(Dim::Fixed(n)) => Some(*n),
            _ => None,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

/// Element type of an activation. Storage schemes of weights and caches are not
/// element types: they are the registry's quant axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElemType {
    F32,
    U32,
}

impl ElemType {
    pub fn bytes(self) -> usize {
        4
    }

    pub fn name(self) -> &'static str {
        match self {
            ElemType::F32 => "f32",
            ElemType::U32 => "u32",
        }
    }
}

/// How long the entries of a layer's cache live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CacheKind {
    /// An entry for every position.
    Full,
    /// Entries of the last `window` positions.
    Window { window: usize },
    /// One entry for the whole sequence, which each step replaces.
    Recurrent,
}

/// What an entry of a cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheEntry {
    /// A key and a value for each head.
    KeyValue { kv_heads: usize, head_dim: usize },
    /// One vector for all heads (multi-head latent attention).
    Latent { len: usize },
    /// A recurrent state, always f32.
    State { len: usize },
}

impl fmt::Display for CacheEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CacheEntry::KeyValue { kv_heads, head_dim } => {
                write!(f, "keys and values, {kv_heads} x {head_dim}")
            }
            CacheEntry::Latent { len } => write!(f, "a latent vector of {len}"),
            CacheEntry::State { len } => write!(f, "a state of {len}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CacheSpec {
    pub layer: usize,
    /// Tells the caches of one layer apart.
    pub part: usize,
    pub kind: CacheKind,
    pub entry: CacheEntry,
}

impl CacheSpec {
    /// Keys and values of every position, or of the last `window`.
    pub fn key_value(
        layer: usize,
        window: Option<usize>,
        kv_heads: usize,
        head_dim: usize,
    ) -> Self {
        CacheSpec {
            layer,
            part: 0,
            kind: match window {
                Some(window) => CacheKind::Window { window },
                None => CacheKind::Full,
            },
            entry: CacheEntry::KeyValue { kv_heads, head_dim },
        }
    }

    /// A latent vector of every position.
    pub fn latent(layer: usize, len: usize) -> Self {
        CacheSpec {
            layer,
            part: 0,
            kind: CacheKind::Full,
            entry: CacheEntry::Latent { len },
        }
    }

    /// A recurrent state of `len` elements.
    pub fn state(layer: usize, part: usize, len: usize) -> Self {
        CacheSpec {
            layer,
            part,
            kind: CacheKind::Recurrent,
            entry: CacheEntry::State { len },
        }
    }
}

#[derive(Clone, Debug)]
pub enum ValueKind {
    Activation(ElemType),
    /// A tensor of the model file. `matrix` weights keep the file's storage
    /// scheme (or the layout a kernel asked for); the others (norms, biases) are
    /// small and are converted to f32 when they are loaded.
    Weight {
        tensor: String,
        matrix: bool,
    },
    /// Data computed from the configuration, f32 (RoPE frequencies).
    Constant(Arc<[f32]>),
    Cache(CacheSpec),
}

#[derive(Clone, Debug)]
pub struct Value {
    pub name: String,
    pub shape: Shape,
    pub kind: ValueKind,
}

impl Value {
    pub fn is_activation(&self) -> bool {
        matches!(self.kind, ValueKind::Activation(_))
    }
}
