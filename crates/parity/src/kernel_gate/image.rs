//! Device memory of a case: operands in one arena, NaN everywhere that is not
//! data, and a list of the bytes that the kernel may change.

use super::GateError;
use super::case::{Case, Data, Product, products};
use super::chain::bytes_of;
use super::fill::parts;
use super::scaled;
use hal::Buffer;
use registry::{
    Binds, Operand, OperandRole, Problem, ROW_MAJOR, RowsFrom, Scheme, TensorRef, WeightLayout,
    WeightShape,
};
use std::ops::Range;

/// As in a plan's arena; also the width of the guard before each operand.
const ALIGN: usize = 256;
const POISON: u8 = 0xff;

#[derive(Clone, Debug)]
struct Region {
    name: String,
    start: usize,
    bytes: usize,
    /// Elements between rows.
    stride: usize,
}

pub struct Image {
    /// What the arena holds before the kernel runs.
    pub bytes: Vec<u8>,
    /// Ascending ranges that the kernel may write.
    writable: Vec<Range<usize>>,
    inputs: Vec<Region>,
    outputs: Vec<Region>,
    /// The states of all inputs.
    pool: Option<Region>,
    workspace: Option<Region>,
    step: Region,
}

impl Image {
    /// Lays out a case for a kernel with this much scratch, its matrices packed
    /// to the problem's layouts. The layout depends on problem and strides only.
    pub fn new(case: &Case, problem: &Problem, workspace: u64) -> Result<Image, GateError> {
        let mut image = Image {
            bytes: Vec::new(),
            writable: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            pool: None,
            workspace: None,
            step: Region {
                name: "step".into(),
                start: 0,
                bytes: 0,
                stride: 1,
            },
        };
        let mut strides = case.strides.iter().copied();
        for (i, (operand, data)) in problem.inputs.iter().zip(&case.inputs).enumerate() {
            let stride = strides.next().unwrap_or(operand.row_len());
            let name = format!("input {i}");
            let region = match data {
                Data::Vector(x) => image.add(name, &bytes_of(x, f32::to_le_bytes), 1),
                Data::Cache(bytes) => image.add(name, bytes, 1),
                Data::Matrix { bytes, .. } => {
                    let bytes = pack(operand, bytes)?;
                    image.add(name, &bytes, 1)
                }
                Data::Rows(x) => {
                    let bytes = bytes_of(x, f32::to_le_bytes);
                    image.rows(name, operand, stride, &bytes)
                }
                Data::Ids(x) => {
                    let bytes = bytes_of(x, u32::to_le_bytes);
                    image.rows(name, operand, stride, &bytes)
                }
                Data::State => match &image.pool {
                    Some(pool) => pool.clone(),
                    None => {
                        let bytes = bytes_of(&case.states, f32::to_le_bytes);
                        let region = image.add("states".into(), &bytes, 1);
                        image.pool = Some(region.clone());
                        region
                    }
                },
            };
            image.inputs.push(region);
        }
        let updated = updated_by(problem);
        for (i, operand) in problem.outputs.iter().enumerate() {
            let stride = strides.next().unwrap_or(operand.row_len());
            let region = match (operand.role, updated[i]) {
                (OperandRole::Activation, _) => {
                    let region = image.rows(format!("output {i}"), operand, stride, &[]);
                    for r in 0..operand.shape[0] {
                        let at = region.start + r * stride * 4;
                        image.writable.push(at..at + operand.row_len() * 4);
                    }
                    region
                }
                (_, Some(input)) => image.inputs[input].clone(),
                (_, None) => {
                    return Err(GateError::case(format!(
                        "output {i} is a cache that no external cache feeds"
                    )));
                }
            };
            image.outputs.push(region);
        }
        for product in products(problem) {
            if let Product::Update { input, .. } = product {
                image.allow_update(case, problem, input)?;
            }
        }
        if workspace > 0 {
            let region = image.add("workspace".into(), &vec![POISON; workspace as usize], 1);
            image
                .writable
                .push(region.start..region.start + region.bytes);
            image.workspace = Some(region);
        }
        let words = case.batch.words(&problem.step);
        image.step = image.add("step".into(), &bytes_of(&words, u32::to_le_bytes), 1);
        image.bytes.resize(image.bytes.len() + ALIGN, POISON);
        image.writable.sort_by_key(|r| r.start);
        Ok(image)
    }

    fn add(&mut self, name: String, data: &[u8], stride: usize) -> Region {
        let start = (self.bytes.len() + ALIGN).next_multiple_of(ALIGN);
        self.bytes.resize(start, POISON);
        self.bytes.extend_from_slice(data);
        Region {
            name,
            start,
            bytes: data.len(),
            stride,
        }
    }

    /// An activation: these rows, poison behind them.
    fn rows(&mut self, name: String, operand: &Operand, stride: usize, data: &[u8]) -> Region {
        let rows = operand.shape.first().copied().unwrap_or(0);
        let len = operand.row_len();
        let elements = match rows {
            0 => 0,
            n => (n - 1) * stride + len,
        };
        let region = self.add(name, &vec![POISON; elements * 4], stride);
        for (r, row) in data.chunks_exact((len * 4).max(1)).enumerate() {
            let at = region.start + r * stride * 4;
            self.bytes[at..at + row.len()].copy_from_slice(row);
        }
        region
    }

    /// What an update in place may write: the cells of the batch's own rows, the
    /// slots of the states that are kept.
    fn allow_update(&mut self, case: &Case, problem: &Problem, n: usize) -> Result<(), GateError> {
        let operand = &problem.inputs[n];
        let start = self.inputs[n].start;
        if let Some(view) = operand.state {
            for slot in case.batch.kept().into_iter().flatten() {
                let at = start + view.at(slot as usize) * 4;
                self.writable.push(at..at + view.len * 4);
            }
            return Ok(());
        }
        let view = operand.cache.ok_or(GateError::case("no cache view"))?;
        let size = operand.scheme.row_bytes(1).unwrap_or(1) as usize;
        let parts = parts(problem, n);
        for (span, position) in case.batch.places() {
            let page = case.page(&view, span, position);
            if scaled::is_scaled(operand.scheme) {
                let own = scaled::written(&view, parts, (page, position % view.block));
                self.writable
                    .extend(own.map(|r| start + r.start..start + r.end));
                continue;
            }
            for (kv, head) in (0..parts).flat_map(|kv| (0..view.kv_heads).map(move |h| (kv, h))) {
                let at = start + view.at(page, kv, head, position % view.block) * size;
                self.writable.push(at..at + view.head_dim * size);
            }
        }
        Ok(())
    }

    /// The pool of recurrent states.
    pub fn states(&self, after: &[u8]) -> Vec<f32> {
        let bytes = self.pool.as_ref();
        let bytes = bytes.map_or(&[][..], |r| &after[r.start..r.start + r.bytes]);
        let words = bytes.as_chunks().0.iter();
        words.map(|w| f32::from_le_bytes(*w)).collect()
    }

    pub fn binds(&self, problem: &Problem, arena: &Buffer) -> Binds {
        let bind = |region: &Region, operand: &Operand| -> TensorRef {
            let bytes = region.bytes as u64;
            let mut t = TensorRef::contiguous(arena, region.start as u64, operand, bytes);
            if operand.role == OperandRole::Activation && !t.strides.is_empty() {
                t.strides[0] = region.stride;
            }
            t
        };
        let words = |region: &Region| {
            let operand = Operand {
                role: OperandRole::Vector,
                rows: RowsFrom::Fixed,
                shape: vec![region.bytes / 4],
                scheme: Scheme::U32,
                layout: ROW_MAJOR,
                cache: None,
                state: None,
            };
            TensorRef::contiguous(arena, region.start as u64, &operand, region.bytes as u64)
        };
        let all = |regions: &[Region], operands: &[Operand]| {
            regions
                .iter()
                .zip(operands)
                .map(|(r, o)| bind(r, o))
                .collect()
        };
        Binds {
            inputs: all(&self.inputs, &problem.inputs),
            outputs: all(&self.outputs, &problem.outputs),
            workspace: self.workspace.as_ref().map(words),
            step: words(&self.step),
        }
    }

    /// Where the kernel wrote what it may not, if it did.
    pub fn trespass(&self, after: &[u8]) -> Option<String> {
        let mut at = 0;
        let end = self.bytes.len();
        for range in self
            .writable
            .iter()
            .cloned()
            .chain(std::iter::once(end..end))
        {
            if at < range.start && self.bytes[at..range.start] != after[at..range.start] {
                let byte = (at..range.start).find(|i| self.bytes[*i] != after[*i]);
                return byte.map(|b| self.describe(b));
            }
            at = at.max(range.end);
        }
        None
    }

    fn describe(&self, byte: usize) -> String {
        let regions = (self.inputs.iter())
            .chain(&self.outputs)
            .chain(&self.workspace)
            .chain([&self.step]);
        let nearest = regions.filter(|r| r.start <= byte).max_by_key(|r| r.start);
        match nearest {
            Some(r) => format!(
                "wrote byte {} of {}, which spans {} bytes and must keep it",
                byte - r.start,
                r.name,
                r.bytes
            ),
            None => format!("wrote byte {byte}, before every operand"),
        }
    }

    /// A product as bytes: real rows, or a whole cache or pool.
    pub fn product(
        &self,
        after: &[u8],
        case: &Case,
        problem: &Problem,
        product: Product,
    ) -> Vec<u8> {
        match product {
            Product::Update { input, .. } => {
                let region = &self.inputs[input];
                after[region.start..region.start + region.bytes].to_vec()
            }
            Product::Rows { output, .. } => {
                let (region, operand) = (&self.outputs[output], &problem.outputs[output]);
                let len = operand.row_len() * 4;
                let rows = 0..case.rows(operand);
                let starts = rows.map(|r| region.start + r * region.stride * 4);
                let slices: Vec<&[u8]> = starts.map(|at| &after[at..at + len]).collect();
                slices.concat()
            }
        }
    }
}

/// For each output the input that is updated to become it.
fn updated_by(problem: &Problem) -> Vec<Option<usize>> {
    let mut of = vec![None; problem.outputs.len()];
    for (i, op) in problem.ops.iter().enumerate() {
        let kind = op.op.kind();
        let slot = kind.updates().and_then(|slot| problem.input(i, slot));
        if let (Some(first), Some((n, _))) = (op.output, slot) {
            let last = match problem.outputs[first].role {
                OperandRole::Activation => first + 1,
                _ => first,
            };
            if let Some(of) = of.get_mut(last) {
                *of = Some(n);
            }
        }
    }
    of
}

/// A matrix in the layout that its operand names.
fn pack(operand: &Operand, bytes: &[u8]) -> Result<Vec<u8>, GateError> {
    if operand.layout == ROW_MAJOR {
        return Ok(bytes.to_vec());
    }
    let layout = WeightLayout::find(operand.layout)
        .ok_or_else(|| GateError::case(format!("no layout is called {}", operand.layout)))?;
    let shape = WeightShape {
        scheme: operand.scheme,
        n: operand.shape[0],
        k: operand.shape[1],
    };
    let sizes = layout.bytes(&shape).zip((layout.panel_bytes)(&shape));
    let (total, panel) = sizes
        .ok_or_else(|| GateError::case(format!("{} cannot hold {shape:?}", operand.layout)))?;
    let mut out = vec![POISON; total as usize];
    let row = bytes.len() / shape.n.max(1);
    for (i, dst) in out.chunks_exact_mut(panel as usize).enumerate() {
        let first = i * layout.panel_rows;
        let rows = layout.panel_rows.min(shape.n - first);
        (layout.pack)(&shape, rows, &bytes[first * row..][..rows * row], dst);
    }
    Ok(out)
}

/// Whether every matrix of the problem can be packed to its layout.
pub fn packable(problem: &Problem) -> bool {
    problem.inputs.iter().all(|o| {
        o.role != OperandRole::Matrix
            || o.layout == ROW_MAJOR
            || WeightLayout::find(o.layout).is_some_and(|l| {
                let shape = WeightShape {
                    scheme: o.scheme,
                    n: o.shape[0],
                    k: o.shape[1],
                };
                l.bytes(&shape).is_some()
            })
    })
}
