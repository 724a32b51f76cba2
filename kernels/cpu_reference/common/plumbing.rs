//! From the kernel contract to a closure over slices: what all kernels of the
//! tree share.

use crate::BACKEND;
use crate::common::stored::{CacheCodec, Decoder, decoder, int8};
use hal::cpu::{CpuRecorder, CpuSlice, TaskCtx};
use hal::{Device, HalError, Recorder};
use registry::{
    Act, Binds, CacheView, Kernel, KernelError, KernelSpec, Pattern, Prepared, Problem, ROW_MAJOR,
    RowsFrom, StateView, StepLayout, StepView, TensorRef,
};
use std::sync::Arc;

pub type Result<T> = std::result::Result<T, KernelError>;

/// A kernel of this tree: every one takes every problem of its pattern, except
/// for what `fits` says.
pub struct Plain {
    pub spec: KernelSpec,
    pub fits: fn(&Problem) -> std::result::Result<(), String>,
    /// Bytes of scratch.
    pub workspace: fn(&Problem) -> u64,
    pub record: fn(Step<'_>) -> Result<()>,
}

impl Plain {
    /// A primitive of one variant, f32 activations, no scratch. The oracle is
    /// what others are compared with: its own tolerance is that against f64.
    pub const fn new(
        pattern: &'static Pattern,
        quant: &'static [&'static str],
        variant: &'static str,
        record: fn(Step<'_>) -> Result<()>,
    ) -> Self {
        Plain {
            spec: KernelSpec {
                backend: BACKEND,
                pattern,
                quant,
                variant,
                act: Act::F32,
                rank: 0,
                layouts: &[],
                tolerance: 2e-5,
            },
            fits: |_| Ok(()),
            workspace: |_| 0,
            record,
        }
    }

    /// The same kernel with its matrix in the file's order.
    pub const fn with_matrix(mut self) -> Self {
        self.spec.layouts = &[ROW_MAJOR];
        self
    }
}

impl Kernel for Plain {
    fn spec(&self) -> &KernelSpec {
        &self.spec
    }

    fn fits(&self, problem: &Problem) -> std::result::Result<(), String> {
        (self.fits)(problem)
    }

    fn prepare(&self, problem: &Problem, _: &dyn Device) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(PlainPrepared {
            problem: problem.clone(),
            key: self.spec.key().to_string(),
            workspace: (self.workspace)(problem),
            record: self.record,
        }))
    }
}

struct PlainPrepared {
    problem: Problem,
    key: String,
    workspace: u64,
    record: fn(Step<'_>) -> Result<()>,
}

impl Prepared for PlainPrepared {
    fn workspace(&self) -> u64 {
        self.workspace
    }

    fn record(&self, recorder: &mut dyn Recorder, binds: &Binds) -> Result<()> {
        let recorder = recorder.as_any_mut().downcast_mut::<CpuRecorder>();
        let recorder = recorder.ok_or(HalError::WrongDevice {
            wanted: "cpu",
            found: "recorder of another API",
        })?;
        (self.record)(Step {
            problem: &self.problem,
            key: &self.key,
            binds,
            recorder,
        })
    }
}

/// A primitive being recorded: its problem and where its operands lie.
pub struct Step<'a> {
    pub problem: &'a Problem,
    key: &'a str,
    binds: &'a Binds,
    recorder: &'a mut CpuRecorder,
}

impl Step<'_> {
    pub fn refuse(&self, reason: impl Into<String>) -> KernelError {
        KernelError::Prepare {
            key: self.key.into(),
            reason: reason.into(),
        }
    }

    fn index(&self, i: usize) -> Result<usize> {
        let found = self.problem.input(0, i).map(|(n, _)| n);
        found.ok_or_else(|| self.refuse(format!("input {i} is missing from the problem")))
    }

    pub fn has_input(&self, i: usize) -> bool {
        self.problem.input(0, i).is_some()
    }

    fn rows(&mut self, t: &TensorRef) -> Result<Rows> {
        Ok(Rows {
            data: self
                .recorder
                .slice(&t.buffer, t.offset, t.bytes as usize / 4)?,
            stride: t.row_stride(),
            len: t.shape.iter().skip(1).product(),
        })
    }

    /// Input `i`, an f32 activation.
    pub fn activation(&mut self, i: usize) -> Result<Rows> {
        let t = &self.binds.inputs[self.index(i)?];
        self.rows(t)
    }

    /// Input `i`, an f32 vector.
    pub fn vector(&mut self, i: usize) -> Result<CpuSlice<f32>> {
        let t = &self.binds.inputs[self.index(i)?];
        let len = t.shape.iter().product();
        Ok(self.recorder.slice(&t.buffer, t.offset, len)?)
    }

    /// Input `i`, a stored `[N, K]`.
    pub fn matrix(&mut self, i: usize) -> Result<Matrix> {
        let at = self.index(i)?;
        let (operand, t) = (&self.problem.inputs[at], &self.binds.inputs[at]);
        let &[n, k] = operand.shape.as_slice() else {
            return Err(self.refuse(format!("a matrix [N, K] was expected, not {operand:?}")));
        };
        let decoder = decoder(operand.scheme)
            .ok_or_else(|| self.refuse(format!("no decoder for {}", operand.scheme)))?;
        let row = decoder.row_bytes(k).ok_or_else(|| {
            self.refuse(format!(
                "{k} elements are no whole blocks of {}",
                operand.scheme
            ))
        })?;
        let data = self.recorder.slice(&t.buffer, t.offset, n * row)?;
        Ok(Matrix {
            data,
            decoder,
            row,
            n,
            k,
        })
    }

    /// Input `i`, a cache.
    pub fn cache(&mut self, i: usize) -> Result<Cache> {
        let at = self.index(i)?;
        let (operand, t) = (&self.problem.inputs[at], &self.binds.inputs[at]);
        let view = operand
            .cache
            .ok_or_else(|| self.refuse(format!("input {i} is not a cache")))?;
        let codec = CacheCodec::of(operand.scheme)
            .ok_or_else(|| self.refuse(format!("no decoder for {}", operand.scheme)))?;
        let data = self.recorder.slice(&t.buffer, t.offset, t.bytes as usize)?;
        Ok(Cache { data, codec, view })
    }

    /// Input `i`, rows of u32.
    pub fn ids(&mut self, i: usize) -> Result<Ids> {
        let t = &self.binds.inputs[self.index(i)?];
        self.id_rows(t)
    }

    fn id_rows(&mut self, t: &TensorRef) -> Result<Ids> {
        let elements = t.bytes as usize / 4;
        Ok(Ids {
            data: self.recorder.slice(&t.buffer, t.offset, elements)?,
            stride: t.row_stride(),
            len: t.shape.iter().skip(1).product(),
        })
    }

    /// Input `i`, a recurrent state.
    pub fn state(&mut self, i: usize) -> Result<State> {
        let at = self.index(i)?;
        let (operand, t) = (&self.problem.inputs[at], &self.binds.inputs[at]);
        let view = operand
            .state
            .ok_or_else(|| self.refuse(format!("input {i} is not a state")))?;
        let elements = t.bytes as usize / 4;
        let data = self.recorder.slice(&t.buffer, t.offset, elements)?;
        Ok(State { data, view })
    }

    /// The first output, f32 rows.
    pub fn output(&mut self) -> Result<Rows> {
        self.rows(&self.binds.outputs[0])
    }

    /// Output `i`, rows of u32.
    pub fn output_ids(&mut self, i: usize) -> Result<Ids> {
        self.id_rows(&self.binds.outputs[i])
    }

    /// The scratch, as rows of `len`.
    pub fn workspace(&mut self, len: usize) -> Result<Rows> {
        let t = self.binds.workspace.as_ref();
        let t = t.ok_or_else(|| self.refuse("recorded without its workspace"))?;
        let elements = t.bytes as usize / 4;
        Ok(Rows {
            data: self.recorder.slice(&t.buffer, t.offset, elements)?,
            stride: len,
            len,
        })
    }

    pub fn meta(&mut self) -> Result<Meta> {
        let t = &self.binds.step;
        let layout = self.problem.step.clone();
        let words = self.recorder.slice(&t.buffer, t.offset, layout.words())?;
        Ok(Meta { words, layout })
    }

    /// The counter that bounds the rows of the output.
    pub fn output_rows(&self) -> RowsFrom {
        self.problem.outputs[0].rows
    }

    /// Appends the entry point with the accesses that `Binds` implies.
    pub fn task(self, run: impl Fn(&TaskCtx) + Send + Sync + 'static) -> Result<()> {
        let accesses = self.binds.accesses();
        self.recorder.task(self.key, &accesses, run);
        Ok(())
    }
}

/// Rows of an activation: contiguous inside, `stride` elements apart.
#[derive(Clone, Copy)]
pub struct Rows {
    data: CpuSlice<f32>,
    stride: usize,
    /// Elements of a row.
    pub len: usize,
}

impl Rows {
    /// # Safety
    /// Inside the step that declared the read, and no thread writes the row.
    pub unsafe fn row<'a>(self, r: usize) -> &'a [f32] {
        // SAFETY: as the caller promises.
        let all = unsafe { self.data.get() };
        &all[r * self.stride..][..self.len]
    }

    /// # Safety
    /// Inside the step that declared the write, and no other thread touches
    /// these elements.
    pub unsafe fn part_mut<'a>(self, r: usize, first: usize, len: usize) -> &'a mut [f32] {
        assert!(first + len <= self.len);
        // SAFETY: as the caller promises.
        unsafe { self.data.get_mut(r * self.stride + first, len) }
    }

    /// # Safety
    /// As [`Rows::part_mut`], for the whole row.
    pub unsafe fn row_mut<'a>(self, r: usize) -> &'a mut [f32] {
        // SAFETY: as the caller promises.
        unsafe { self.part_mut(r, 0, self.len) }
    }
}

/// Rows of u32.
#[derive(Clone, Copy)]
pub struct Ids {
    data: CpuSlice<u32>,
    stride: usize,
    len: usize,
}

impl Ids {
    /// # Safety
    /// Inside the step that declared the read, and no thread writes the row.
    pub unsafe fn row<'a>(self, r: usize) -> &'a [u32] {
        // SAFETY: as the caller promises.
        let all = unsafe { self.data.get() };
        &all[r * self.stride..][..self.len]
    }

    /// # Safety
    /// Inside the step that declared the write, and no other thread touches the
    /// row.
    pub unsafe fn row_mut<'a>(self, r: usize) -> &'a mut [u32] {
        // SAFETY: as the caller promises.
        unsafe { self.data.get_mut(r * self.stride, self.len) }
    }
}

/// A layer's recurrent state in the slots of the pool.
#[derive(Clone, Copy)]
pub struct State {
    data: CpuSlice<f32>,
    pub view: StateView,
}

impl State {
    /// Elements `first..` of a slot's state, or zeros where there is no slot yet.
    ///
    /// # Safety
    /// Inside the step that declared the read, and no thread writes them.
    pub unsafe fn load(self, slot: Option<usize>, first: usize, out: &mut [f32]) {
        match slot {
            None => out.fill(0.0),
            Some(slot) => {
                // SAFETY: as the caller promises.
                let all = unsafe { self.data.get() };
                out.copy_from_slice(&all[self.view.at(slot) + first..][..out.len()]);
            }
        }
    }

    /// # Safety
    /// Inside the step that declared the write, and no other thread touches
    /// these elements of the slot.
    pub unsafe fn store(self, slot: usize, first: usize, x: &[f32]) {
        // SAFETY: as the caller promises.
        let out = unsafe { self.data.get_mut(self.view.at(slot) + first, x.len()) };
        out.copy_from_slice(x);
    }
}

/// A stored matrix, row after row.
#[derive(Clone, Copy)]
pub struct Matrix {
    data: CpuSlice<u8>,
    decoder: Decoder,
    /// Bytes of a row.
    row: usize,
    pub n: usize,
    pub k: usize,
}

impl Matrix {
    /// Row `n` in f32.
    ///
    /// # Safety
    /// Inside the step that declared the read.
    pub unsafe fn decode(self, n: usize, out: &mut [f32]) {
        // SAFETY: as the caller promises; weights are never written by a step.
        let all = unsafe { self.data.get() };
        self.decoder.row(&all[n * self.row..][..self.row], out);
    }
}

/// A layer's keys and values in the pages of its group.
#[derive(Clone, Copy)]
pub struct Cache {
    data: CpuSlice<u8>,
    codec: CacheCodec,
    pub view: CacheView,
}

impl Cache {
    /// The key (`kv` 0) or value (`kv` 1) of one head and token, in f32.
    ///
    /// # Safety
    /// Inside a step that declared the read and does not write the cache.
    pub unsafe fn load(self, page: usize, kv: usize, head: usize, token: usize, out: &mut [f32]) {
        // SAFETY: as the caller promises.
        let all = unsafe { self.data.get() };
        let at = self.view.at(page, kv, head, token);
        match self.codec {
            CacheCodec::Plain(codec) => {
                (codec.decode)(&all[at * codec.bytes..][..out.len() * codec.bytes], out);
            }
            CacheCodec::Int8 => {
                let scale = self.view.scale_at((page, kv), head, token, 2);
                int8::decode([all[scale], all[scale + 1]], &all[at..][..out.len()], out);
            }
        }
    }

    /// Stores a key or value.
    ///
    /// # Safety
    /// Inside the step that declared the write, and no other thread touches this
    /// head and token.
    pub unsafe fn store(self, page: usize, kv: usize, head: usize, token: usize, x: &[f32]) {
        let at = self.view.at(page, kv, head, token);
        match self.codec {
            CacheCodec::Plain(codec) => {
                // SAFETY: as the caller promises.
                let out = unsafe { self.data.get_mut(at * codec.bytes, x.len() * codec.bytes) };
                (codec.encode)(x, out);
            }
            CacheCodec::Int8 => {
                let scale = self.view.scale_at((page, kv), head, token, 2);
                // SAFETY: as the caller promises; codes and scale lie apart.
                let (codes, to) =
                    unsafe { (self.data.get_mut(at, x.len()), self.data.get_mut(scale, 2)) };
                to.copy_from_slice(&int8::encode(x, codes));
            }
        }
    }
}

/// The step buffer.
pub struct Meta {
    words: CpuSlice<u32>,
    layout: Arc<StepLayout>,
}

impl Meta {
    /// # Safety
    /// Inside a step that declared the read of the step buffer.
    pub unsafe fn view(&self) -> StepView<'_> {
        // SAFETY: as the caller promises; kernels never write the step buffer.
        StepView::new(&self.layout, unsafe { self.words.get() })
    }
}
