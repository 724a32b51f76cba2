//! How a tensor is made of others.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::convert::{Floats, Microscaling, Paro, Transpose};
use super::pattern::RowPattern;
use super::random::Random;
use super::view::Node;
use super::{Made, Place, TensorInfo, TensorStore};
use crate::codec::PARO_GROUP;
use crate::dtype::StoredType;

/// What a tensor is made of; see [`TensorStore::define`].
///
/// Shapes, types and sizes are checked when it is defined. Slices, stacks and new shapes are free:
/// their bytes are borrowed from the files wherever they lie in one stretch.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Recipe {
    /// The tensor of that name.
    Tensor(String),
    /// Entries of the outermost dimension. A vector must be of a plain type.
    Rows(Box<Recipe>, RowPattern),
    /// One after the other along the outermost dimension; all have the same type and the same
    /// other dimensions.
    Stack(Vec<Recipe>),
    /// The same elements in another shape, whose rows are whole blocks.
    Reshape(Box<Recipe>, Vec<usize>),
    /// The two innermost dimensions exchanged; plain types.
    Transpose(Box<Recipe>),
    /// As f32, from float and block schemes and from integers of 8 and 16 bits.
    Floats(Box<Recipe>),
    /// mxfp4 [.., K] from `blocks` u8 [.., K/32, 16] and `scales` u8 [.., K/32]. Two neighbours of
    /// a row share a byte, the first in its low bits.
    Microscaling {
        blocks: Box<Recipe>,
        scales: Box<Recipe>,
    },
    /// w4_paro [N, K] from `qweight` i32 [K, N/8], `qzeros` i32 [K/128, N/8] and `scales` f16
    /// [K/128, N].
    Paro {
        qweight: Box<Recipe>,
        qzeros: Box<Recipe>,
        scales: Box<Recipe>,
    },
    /// Random numbers, of no file: float types and block schemes, the latter with mean 0. Equal
    /// recipes give equal bytes.
    Random {
        stored: StoredType,
        shape: Vec<usize>,
        mean: f32,
        /// Standard deviation.
        deviation: f32,
        seed: u64,
    },
}

impl Recipe {
    /// The tensor called `name`.
    pub fn tensor(name: impl Into<String>) -> Self {
        Self::Tensor(name.into())
    }

    /// [`Stack`](Self::Stack) of the tensors of these names.
    pub fn stack<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self::Stack(names.into_iter().map(Self::tensor).collect())
    }

    /// [`Rows`](Self::Rows) of this.
    pub fn rows(self, pattern: RowPattern) -> Self {
        Self::Rows(Box::new(self), pattern)
    }

    /// This in another [shape](Self::Reshape).
    pub fn reshape(self, shape: &[usize]) -> Self {
        Self::Reshape(Box::new(self), shape.to_vec())
    }

    /// This [transposed](Self::Transpose).
    pub fn transpose(self) -> Self {
        Self::Transpose(Box::new(self))
    }

    /// This [as f32](Self::Floats).
    pub fn floats(self) -> Self {
        Self::Floats(Box::new(self))
    }

    /// [`Microscaling`](Self::Microscaling) of the tensors of these names.
    pub fn microscaling(blocks: impl Into<String>, scales: impl Into<String>) -> Self {
        Self::Microscaling {
            blocks: Box::new(Self::tensor(blocks)),
            scales: Box::new(Self::tensor(scales)),
        }
    }

    /// [`Paro`](Self::Paro) of `prefix`.qweight, `prefix`.qzeros and `prefix`.scales.
    pub fn paro(prefix: &str) -> Self {
        let part = |name: &str| Box::new(Self::tensor(format!("{prefix}.{name}")));
        Self::Paro {
            qweight: part("qweight"),
            qzeros: part("qzeros"),
            scales: part("scales"),
        }
    }
}

/// Why a recipe does not fit the tensors that there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeProblem {
    #[error("`{0}`, of which it is made, is not in the files; check that the download is complete")]
    Missing(String),
    #[error("it has no rows; check the sizes in the configuration")]
    NoRows,
    #[error("it is stacked of no tensors; check the counts in the configuration")]
    NoParts,
    #[error("its size overflows; check the sizes in the configuration")]
    TooLarge,
    #[error(
        "row {last} is wanted where there are {rows}{}; configuration and weights are of different models",
        if *periodic { " in each period" } else { "" }
    )]
    Rows {
        last: usize,
        rows: usize,
        periodic: bool,
    },
    #[error(
        "{count} rows are wanted of {rows}, which cannot be taken once each; check the sizes in the configuration"
    )]
    Count { count: usize, rows: usize },
    #[error(
        "{rows} rows are no whole number of periods of {period}; configuration and weights are of different models"
    )]
    Period { rows: usize, period: usize },
    #[error(
        "{found} is wanted as {wanted}, which is not the same number of elements in whole blocks of {stored}; configuration and weights are of different models"
    )]
    Reshape {
        found: String,
        wanted: String,
        stored: StoredType,
    },
    #[error(
        "its part {index} is {found}, the first is {first}; check that all files are of one model"
    )]
    Unlike {
        index: usize,
        found: String,
        first: String,
    },
    #[error("{what} is {found}, wanted {wanted}; check that the files are of one model")]
    Part {
        what: &'static str,
        found: String,
        wanted: String,
    },
}

/// A tensor under construction: flat bytes with a shape and a type.
#[derive(Clone)]
struct Draft {
    shape: Vec<usize>,
    stored: StoredType,
    node: Arc<Node>,
}

impl Draft {
    fn new(shape: Vec<usize>, stored: StoredType, node: Node) -> Result<Self, RecipeProblem> {
        let draft = Self {
            shape,
            stored,
            node: Arc::new(node),
        };
        // Every offset that a node computes lies below this.
        let bytes = draft.stored.bytes_for(&draft.shape);
        match bytes.and_then(|b| usize::try_from(b).ok()) {
            Some(bytes) if isize::try_from(bytes).is_ok() => Ok(draft),
            _ => Err(RecipeProblem::TooLarge),
        }
    }

    fn bytes(&self) -> usize {
        // Checked by `new`.
        self.stored.bytes_for(&self.shape).unwrap_or(0) as usize
    }

    fn text(&self) -> String {
        format!("{} {:?}", self.stored, self.shape)
    }
}

pub(super) fn make(
    store: &TensorStore,
    name: &str,
    recipe: &Recipe,
) -> Result<Made, RecipeProblem> {
    let mut maker = Maker {
        store,
        sources: BTreeSet::new(),
    };
    let draft = maker.draft(recipe)?;
    let place = draft.node.place().map(|(file, offset)| Place {
        file,
        offset: offset as u64,
    });
    Ok(Made {
        info: TensorInfo {
            name: name.to_string(),
            bytes: draft.bytes() as u64,
            shape: draft.shape,
            stored: draft.stored,
            place,
        },
        node: draft.node,
        sources: maker.sources.into_iter().collect(),
    })
}

struct Maker<'a> {
    store: &'a TensorStore,
    sources: BTreeSet<String>,
}

impl Maker<'_> {
    fn draft(&mut self, recipe: &Recipe) -> Result<Draft, RecipeProblem> {
        match recipe {
            Recipe::Tensor(name) => self.tensor(name),
            Recipe::Rows(of, pattern) => rows(self.draft(of)?, pattern),
            Recipe::Stack(parts) => {
                let parts: Result<Vec<_>, _> = parts.iter().map(|p| self.draft(p)).collect();
                stack(&parts?)
            }
            Recipe::Reshape(of, shape) => reshape(self.draft(of)?, shape),
            Recipe::Transpose(of) => transpose(self.draft(of)?),
            Recipe::Floats(of) => floats(self.draft(of)?),
            Recipe::Microscaling { blocks, scales } => {
                microscaling(self.draft(blocks)?, self.draft(scales)?)
            }
            Recipe::Paro {
                qweight,
                qzeros,
                scales,
            } => paro(
                self.draft(qweight)?,
                self.draft(qzeros)?,
                self.draft(scales)?,
            ),
            Recipe::Random {
                stored,
                shape,
                mean,
                deviation,
                seed,
            } => random(*stored, shape, *mean, *deviation, *seed),
        }
    }

    fn tensor(&mut self, name: &str) -> Result<Draft, RecipeProblem> {
        let missing = || RecipeProblem::Missing(crate::error::excerpt(name, 120));
        let sources = self.store.sources(name).map(str::to_string);
        self.sources.extend(sources);
        if let Some(made) = self.store.made.get(name) {
            return Ok(Draft {
                shape: made.info.shape.clone(),
                stored: made.info.stored,
                node: Arc::clone(&made.node),
            });
        }
        let info = self.store.stored.get(name).ok_or_else(missing)?;
        let (file, range) = info.range().ok_or_else(missing)?;
        let offset = range.start;
        Draft::new(
            info.shape.clone(),
            info.stored,
            Node::Stored { file, offset },
        )
    }
}

fn rows(of: Draft, pattern: &RowPattern) -> Result<Draft, RecipeProblem> {
    let count = of.shape.first().copied().unwrap_or(1);
    if of.shape.len() < 2 && of.stored.block_elements() > 1 {
        return Err(part(
            "the vector whose elements are picked",
            &of,
            "a plain type",
        ));
    }
    let taken = pattern.over(count)?;
    let row = of.bytes() / count;
    let mut shape = of.shape.clone();
    match shape.first_mut() {
        Some(first) => *first = taken.count(),
        None => shape.push(taken.count()),
    }
    let (first, run) = taken.source(0);
    let node = match of.node.place() {
        Some((file, offset)) if run == taken.count() => Node::Stored {
            file,
            offset: offset + first * row,
        },
        _ => Node::Rows {
            source: of.node,
            taken,
            row,
        },
    };
    Draft::new(shape, of.stored, node)
}

fn stack(parts: &[Draft]) -> Result<Draft, RecipeProblem> {
    let first = parts.first().ok_or(RecipeProblem::NoParts)?;
    let mut shape = match first.shape.as_slice() {
        [] => vec![1],
        shape => shape.to_vec(),
    };
    let (mut total, mut end) = (0usize, 0usize);
    let mut nodes = Vec::with_capacity(parts.len());
    for (index, next) in parts.iter().enumerate() {
        let inner = |d: &Draft| d.shape.get(1..).unwrap_or_default().to_vec();
        let alike = next.shape.len() == first.shape.len()
            && next.stored == first.stored
            && inner(next) == inner(first)
            && (next.shape.len() > 1 || next.stored.block_elements() == 1);
        if !alike {
            return Err(RecipeProblem::Unlike {
                index,
                found: next.text(),
                first: first.text(),
            });
        }
        let count = next.shape.first().copied().unwrap_or(1);
        let sum = (total.checked_add(count)).zip(end.checked_add(next.bytes()));
        (total, end) = sum.ok_or(RecipeProblem::TooLarge)?;
        nodes.push((Arc::clone(&next.node), end));
    }
    shape[0] = total;
    Draft::new(shape, first.stored, Node::Stack(nodes))
}

fn reshape(of: Draft, shape: &[usize]) -> Result<Draft, RecipeProblem> {
    let bytes = of.stored.bytes_for(shape);
    if shape.contains(&0) || bytes != Some(of.bytes() as u64) {
        return Err(RecipeProblem::Reshape {
            found: format!("{:?}", of.shape),
            wanted: format!("{shape:?}"),
            stored: of.stored,
        });
    }
    Ok(Draft {
        shape: shape.to_vec(),
        ..of
    })
}

fn transpose(of: Draft) -> Result<Draft, RecipeProblem> {
    let [outer @ .., rows, columns] = of.shape.as_slice() else {
        return Err(part("the tensor to transpose", &of, "a matrix"));
    };
    if of.stored.block_elements() > 1 {
        return Err(part("the tensor to transpose", &of, "a plain type"));
    }
    let node = Transpose {
        source: Arc::clone(&of.node),
        matrices: outer.iter().product(),
        rows: *rows,
        columns: *columns,
        size: of.stored.block_bytes(),
    };
    let mut shape = of.shape.clone();
    let inner = shape.len() - 2;
    shape[inner..].reverse();
    Draft::new(shape, of.stored, Node::Transpose(node))
}

fn floats(of: Draft) -> Result<Draft, RecipeProblem> {
    if of.stored == StoredType::F32 {
        return Ok(of);
    }
    if !Floats::can_read(of.stored) {
        let wanted = "float or block schemes, or integers of at most 16 bits";
        return Err(part("the tensor to read as f32", &of, wanted));
    }
    let node = Floats {
        source: of.node,
        from: of.stored,
    };
    Draft::new(of.shape, StoredType::F32, Node::Floats(node))
}

fn microscaling(blocks: Draft, scales: Draft) -> Result<Draft, RecipeProblem> {
    const WHAT: &str = "the tensor of mxfp4 nibbles";
    let [outer @ .., 16] = blocks.shape.as_slice() else {
        return Err(part(WHAT, &blocks, "u8 [.., K/32, 16]"));
    };
    if blocks.stored != StoredType::U8 || outer.is_empty() {
        return Err(part(WHAT, &blocks, "u8 [.., K/32, 16]"));
    }
    expect("the tensor of mxfp4 scales", &scales, StoredType::U8, outer)?;
    let mut shape = outer.to_vec();
    let count = shape.iter().product();
    if let Some(last) = shape.last_mut() {
        *last = last.checked_mul(32).ok_or(RecipeProblem::TooLarge)?;
    }
    let node = Microscaling {
        blocks: blocks.node,
        scales: scales.node,
        count,
    };
    Draft::new(shape, StoredType::MXFP4, Node::Microscaling(node))
}

fn paro(qweight: Draft, qzeros: Draft, scales: Draft) -> Result<Draft, RecipeProblem> {
    let wanted = || part("qweight", &qweight, "i32 [K, N/8] with K a multiple of 128");
    let &[k, words] = qweight.shape.as_slice() else {
        return Err(wanted());
    };
    if qweight.stored != StoredType::I32 || !k.is_multiple_of(PARO_GROUP) {
        return Err(wanted());
    }
    let n = words.checked_mul(8).ok_or(RecipeProblem::TooLarge)?;
    let groups = k / PARO_GROUP;
    expect("qzeros", &qzeros, StoredType::I32, &[groups, words])?;
    expect("scales", &scales, StoredType::F16, &[groups, n])?;
    let node = Paro {
        qweight: qweight.node,
        qzeros: qzeros.node,
        scales: scales.node,
        n,
        k,
    };
    Draft::new(vec![n, k], StoredType::W4_PARO, Node::Paro(node))
}

fn random(
    stored: StoredType,
    shape: &[usize],
    mean: f32,
    deviation: f32,
    seed: u64,
) -> Result<Draft, RecipeProblem> {
    let sized = Draft::new(shape.to_vec(), stored, Node::Stack(Vec::new()))?;
    if sized.bytes() == 0 {
        return Err(RecipeProblem::NoRows);
    }
    let elements = shape.iter().product();
    match Random::new(stored, elements, mean, deviation, seed) {
        Some(node) => Ok(Draft {
            node: Arc::new(Node::Random(node)),
            ..sized
        }),
        None => Err(part(
            "the random tensor",
            &sized,
            "a float type, or a block scheme with mean 0",
        )),
    }
}

fn expect(
    what: &'static str,
    found: &Draft,
    stored: StoredType,
    shape: &[usize],
) -> Result<(), RecipeProblem> {
    match found.stored == stored && found.shape == shape {
        true => Ok(()),
        false => Err(part(what, found, &format!("{stored} {shape:?}"))),
    }
}

fn part(what: &'static str, found: &Draft, wanted: &str) -> RecipeProblem {
    RecipeProblem::Part {
        what,
        found: found.text(),
        wanted: wanted.to_string(),
    }
}
