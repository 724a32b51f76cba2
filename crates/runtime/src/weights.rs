//! Making weights resident, each once, in the layout the plan chose.

use crate::error::RuntimeError;
use formats::TensorStore;
use graph::{ValueId, ValueKind};
use hal::{Device, DeviceKind, HostRegion};
use planner::{Program, WeightPlan};
use registry::{Operand, OperandRole, ROW_MAJOR, RowsFrom, TensorRef, WeightLayout, WeightShape};
use std::collections::HashMap;
use std::sync::Arc;

/// Packs with this many threads at most: more only fight for memory bandwidth.
const PACK_THREADS: usize = 16;

/// Bytes that are worth a thread.
const PER_THREAD: usize = 256 << 10;

/// Bytes staged at a time for layouts that are uploaded as they are.
const CHUNK: u64 = 16 << 20;

struct Mapped(Arc<formats::MappedFile>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// The weights and constants that lie on a device.
pub type Resident = HashMap<ValueId, TensorRef>;

/// Loads every weight and constant of a program, target by target. `progress` hears
/// of bytes done and bytes in all.
pub fn load(
    program: &Program,
    devices: &[Arc<dyn Device>],
    tensors: &TensorStore,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Resident>, RuntimeError> {
    let total: u64 = program.weights.iter().map(|w| w.bytes).sum();
    let mut done = 0;
    let mut all = Vec::new();
    for (target, device) in devices.iter().enumerate() {
        let mut resident = load_vectors(program, target, &**device, tensors)?;
        let matrices = program.weights.iter().filter(|w| w.matrix);
        for w in matrices.filter(|w| w.target == target) {
            progress(done, total);
            resident.insert(w.value, load_matrix(w, &**device, tensors)?);
            done += w.bytes;
        }
        all.push(resident);
    }
    progress(total, total);
    Ok(all)
}

fn missing(name: &str) -> RuntimeError {
    RuntimeError::Weight {
        tensor: name.into(),
        reason: "is not in the model's files".into(),
    }
}

/// All vectors and constants of a device lie in one buffer: there are many and they
/// are small.
fn load_vectors(
    program: &Program,
    target: usize,
    device: &dyn Device,
    tensors: &TensorStore,
) -> Result<Resident, RuntimeError> {
    let small = program.weights.iter().filter(|w| !w.matrix);
    let small: Vec<&WeightPlan> = small.filter(|w| w.target == target).collect();
    let mut resident = Resident::new();
    let bytes: u64 = small.iter().map(|w| w.bytes.next_multiple_of(256)).sum();
    let mut host = vec![0u8; bytes as usize];
    let buffer = device.alloc(bytes.max(4), "vectors")?;
    let mut at = 0;
    for w in small {
        let data: Vec<f32> = match (&w.tensor, &program.graph.value(w.value).kind) {
            (Some(name), _) => {
                let t = tensors.get(name).ok_or_else(|| missing(name))?;
                t.to_f32().ok_or_else(|| RuntimeError::Weight {
                    tensor: name.clone(),
                    reason: format!("stored as {}, which is no vector type", t.info.scheme()),
                })?
            }
            (None, ValueKind::Constant(data)) => data.to_vec(),
            _ => Vec::new(),
        };
        if data.len() as u64 * 4 != w.bytes {
            return Err(RuntimeError::Weight {
                tensor: w.tensor.clone().unwrap_or_default(),
                reason: format!("holds {} elements, wanted {}", data.len(), w.bytes / 4),
            });
        }
        let out = &mut host[at as usize..][..w.bytes as usize];
        for (o, v) in out.chunks_exact_mut(4).zip(&data) {
            o.copy_from_slice(&v.to_le_bytes());
        }
        let operand = operand(w, OperandRole::Vector);
        let place = TensorRef::contiguous(&buffer, at, &operand, w.bytes);
        resident.insert(w.value, place);
        at += w.bytes.next_multiple_of(256);
    }
    device.upload(&buffer, 0, &host)?;
    Ok(resident)
}

fn operand(w: &WeightPlan, role: OperandRole) -> Operand {
    Operand {
        role,
        rows: RowsFrom::Fixed,
        shape: w.shape.clone(),
        scheme: w.scheme,
        layout: w.layout,
        cache: None,
        state: None,
    }
}

fn load_matrix(
    w: &WeightPlan,
    device: &dyn Device,
    tensors: &TensorStore,
) -> Result<TensorRef, RuntimeError> {
    let name = w.tensor.as_deref().unwrap_or_default();
    let source = tensors.get(name).ok_or_else(|| missing(name))?;
    let operand = operand(w, OperandRole::Matrix);
    if w.layout == ROW_MAJOR {
        if let Some((file, range)) = tensors.region(name) {
            let region = HostRegion {
                owner: Arc::new(Mapped(file)),
                range,
            };
            if let Some(buffer) = device.import(&region)? {
                return Ok(TensorRef::contiguous(&buffer, 0, &operand, w.bytes));
            }
        }
        let buffer = device.alloc(w.bytes, name)?;
        let rows = w.shape[0];
        let row = w.bytes / rows.max(1) as u64;
        let at_once = (CHUNK / row.max(1)).clamp(1, rows as u64) as usize;
        let threads = host_threads(device);
        for first in (0..rows).step_by(at_once) {
            let chunk = source.rows(first..rows.min(first + at_once));
            let (offset, bytes) = (first as u64 * row, chunk.len() as u64);
            device.fill(&buffer, offset, bytes, &mut |dst| {
                let threads = threads.min(dst.len() / PER_THREAD + 1);
                let each = dst.len().div_ceil(threads).max(1);
                let parts = dst.chunks_mut(each).zip(chunk.chunks(each));
                side_by_side(parts, &|_, (dst, src)| dst.copy_from_slice(src));
            })?;
        }
        tensors.release(name);
        return Ok(TensorRef::contiguous(&buffer, 0, &operand, w.bytes));
    }
    let shape = WeightShape {
        scheme: w.scheme,
        n: w.shape[0],
        k: w.shape[1],
    };
    let describe = || RuntimeError::Weight {
        tensor: name.into(),
        reason: format!("cannot be packed as {}", w.layout),
    };
    let layout = WeightLayout::find(w.layout).ok_or_else(describe)?;
    let panel = (layout.panel_bytes)(&shape).ok_or_else(describe)?;
    let buffer = device.alloc(w.bytes, name)?;
    let panels = layout.panels(&shape);
    let threads = host_threads(device);
    let at_once = (CHUNK / panel.max(1)).clamp(1, panels as u64) as usize;
    let mut first = 0;
    while first < panels {
        let count = at_once.min(panels - first);
        let (offset, bytes) = (first as u64 * panel, count as u64 * panel);
        device.fill(&buffer, offset, bytes, &mut |dst| {
            pack_panels(layout, &shape, &source, first, panel as usize, threads, dst);
        })?;
        first += count;
    }
    tensors.release(name);
    Ok(TensorRef::contiguous(&buffer, 0, &operand, w.bytes))
}

/// A CPU device says how many threads it may use; for others the host packs.
fn host_threads(device: &dyn Device) -> usize {
    let threads = match device.info().kind {
        DeviceKind::Cpu => device.info().threads,
        _ => std::thread::available_parallelism().map_or(1, |n| n.get()),
    };
    threads.min(PACK_THREADS)
}

/// Does every part on a thread of its own, the first on this one.
fn side_by_side<P: Send>(parts: impl Iterator<Item = P>, work: &(impl Fn(usize, P) + Sync)) {
    std::thread::scope(|scope| {
        let mut parts = parts.enumerate();
        let own = parts.next();
        for (i, part) in parts {
            scope.spawn(move || work(i, part));
        }
        if let Some((i, part)) = own {
            work(i, part);
        }
    });
}

fn pack_panels(
    layout: &WeightLayout,
    shape: &WeightShape,
    source: &formats::TensorRef<'_>,
    first: usize,
    panel: usize,
    threads: usize,
    dst: &mut [u8],
) {
    let threads = threads.min(dst.len() / PER_THREAD + 1);
    let each = (dst.len() / panel).div_ceil(threads).max(1);
    side_by_side(dst.chunks_mut(each * panel), &|part, chunk: &mut [u8]| {
        // Packing reads what it wrote, which memory that a driver maps for writing
        // answers a hundred times slower than a cache: so it goes there as a whole.
        let mut packed = vec![0; panel];
        for (i, out) in chunk.chunks_mut(panel).enumerate() {
            let from = (first + part * each + i) * layout.panel_rows;
            let rows = layout.panel_rows.min(shape.n - from);
            (layout.pack)(shape, rows, &source.rows(from..from + rows), &mut packed);
            out.copy_from_slice(&packed);
        }
    });
}
