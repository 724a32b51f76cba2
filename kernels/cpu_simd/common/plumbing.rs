//! From the kernel contract to a [`Body`] over slices: what all kernels of the
//! tree share.

use super::int::IntBody;
use super::simd::{Body, Level};
use crate::BACKEND;
#[cfg(target_arch = "x86_64")]
use hal::DeviceInfo;
use hal::cpu::{CpuRecorder, CpuSlice, TaskCtx};
use hal::{Device, HalError, Recorder};
use registry::{
    Act, Binds, CacheView, Kernel, KernelError, KernelSpec, Operand, Pattern, Prepared, Problem,
    RowsFrom, StateView, StepLayout, StepView, TensorRef,
};
use std::sync::Arc;

pub type Result<T> = std::result::Result<T, KernelError>;
pub type Fits = std::result::Result<(), String>;

/// A kernel of this tree, as data.
pub struct SimdKernel {
    pub spec: KernelSpec,
    pub fits: fn(&Problem) -> Fits,
    /// Bytes of scratch.
    pub workspace: fn(&Problem) -> u64,
    pub record: fn(&mut Step<'_>) -> Result<()>,
    /// Whether `fits` knows the attributes that most kernels do not.
    pub every_attribute: bool,
}

impl SimdKernel {
    /// A kernel without matrices: f32 activations, any instruction set, no
    /// scratch, rank 10.
    pub const fn new(
        pattern: &'static Pattern,
        quant: &'static [&'static str],
        variant: &'static str,
        tolerance: f32,
        record: fn(&mut Step<'_>) -> Result<()>,
    ) -> Self {
        SimdKernel {
            spec: KernelSpec {
                backend: BACKEND,
                pattern,
                quant,
                variant,
                act: Act::F32,
                rank: 10,
                layouts: &[],
                tolerance,
            },
            fits: |_| Ok(()),
            workspace: |_| 0,
            record,
            every_attribute: false,
        }
    }

    /// Takes what [`Problem::common_attributes`] refuses.
    pub const fn with_every_attribute(mut self) -> Self {
        self.every_attribute = true;
        self
    }

    pub const fn with_fits(mut self, fits: fn(&Problem) -> Fits) -> Self {
        self.fits = fits;
        self
    }

    pub const fn with_workspace(mut self, workspace: fn(&Problem) -> u64) -> Self {
        self.workspace = workspace;
        self
    }

    pub const fn with_layouts(mut self, layouts: &'static [&'static str]) -> Self {
        self.spec.layouts = layouts;
        self
    }

    pub const fn with_rank(mut self, rank: i32) -> Self {
        self.spec.rank = rank;
        self
    }
}

impl Kernel for SimdKernel {
    fn spec(&self) -> &KernelSpec {
        &self.spec
    }

    fn fits(&self, problem: &Problem) -> Fits {
        if !self.every_attribute {
            problem.common_attributes()?;
        }
        (self.fits)(problem)
    }

    fn prepare(&self, problem: &Problem, device: &dyn Device) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(SimdPrepared {
            problem: problem.clone(),
            key: self.spec.key().to_string(),
            level: Level::of(device.info()),
            workspace: (self.workspace)(problem),
            record: self.record,
        }))
    }
}

struct SimdPrepared {
    problem: Problem,
    key: String,
    level: Level,
    workspace: u64,
    record: fn(&mut Step<'_>) -> Result<()>,
}

impl Prepared for SimdPrepared {
    fn workspace(&self) -> u64 {
        self.workspace
    }

    fn record(&self, recorder: &mut dyn Recorder, binds: &Binds) -> Result<()> {
        let recorder = recorder.as_any_mut().downcast_mut::<CpuRecorder>();
        let recorder = recorder.ok_or(HalError::WrongDevice {
            wanted: "cpu",
            found: "recorder of another API",
        })?;
        (self.record)(&mut Step {
            problem: &self.problem,
            key: &self.key,
            level: self.level,
            binds,
            recorder,
        })
    }
}

/// A use of a kernel being recorded: its problem and where its operands lie.
pub struct Step<'a> {
    pub problem: &'a Problem,
    key: &'a str,
    pub level: Level,
    binds: &'a Binds,
    recorder: &'a mut CpuRecorder,
}

impl<'a> Step<'a> {
    pub fn refuse(&self, reason: impl Into<String>) -> KernelError {
        KernelError::Prepare {
            key: self.key.into(),
            reason: reason.into(),
        }
    }

    pub fn threads(&self) -> usize {
        self.recorder.threads()
    }

    /// Input `i` of op `op`, which comes from outside.
    pub fn operand(&self, op: usize, i: usize) -> Result<(&'a Operand, &'a TensorRef)> {
        match self.problem.input(op, i) {
            Some((n, operand)) => Ok((operand, &self.binds.inputs[n])),
            None => Err(self.refuse(format!("input {i} of op {op} is missing from the problem"))),
        }
    }

    fn rows<T: Copy + 'static>(&mut self, o: &Operand, t: &TensorRef) -> Result<Rows<T>> {
        let bytes = usize::try_from(t.bytes).unwrap_or(usize::MAX);
        let rows = Rows {
            data: self
                .recorder
                .slice(&t.buffer, t.offset, bytes / size_of::<T>())?,
            stride: t.row_stride(),
            count: o.shape[0],
            len: o.row_len(),
        };
        let end = rows.count.saturating_sub(1).checked_mul(rows.stride);
        match end.and_then(|e| e.checked_add(rows.len)) {
            Some(end) if rows.count == 0 || end <= rows.data.len() => Ok(rows),
            _ => Err(self.refuse(format!(
                "{} rows of {} at stride {} do not lie in {} bytes",
                rows.count, rows.len, rows.stride, t.bytes
            ))),
        }
    }

    /// Input `i` of op `op`, an f32 activation.
    pub fn activation(&mut self, op: usize, i: usize) -> Result<Rows<f32>> {
        let (o, t) = self.operand(op, i)?;
        self.rows(o, t)
    }

    /// Input `i` of op `op`, an f32 vector.
    pub fn vector(&mut self, op: usize, i: usize) -> Result<CpuSlice<f32>> {
        let (o, t) = self.operand(op, i)?;
        let len = o.shape.iter().product();
        Ok(self.recorder.slice(&t.buffer, t.offset, len)?)
    }

    /// Input `i` of op `op`, a stored `[N, K]` of `bytes` bytes.
    pub fn matrix(&mut self, op: usize, i: usize, bytes: u64) -> Result<CpuSlice<u8>> {
        let (o, t) = self.operand(op, i)?;
        if t.bytes < bytes {
            return Err(self.refuse(format!(
                "{:?} in {} takes {bytes} bytes, the operand has {}",
                o.shape, o.layout, t.bytes
            )));
        }
        Ok(self.recorder.slice(&t.buffer, t.offset, bytes as usize)?)
    }

    /// Input `i` of op `op`, a cache.
    pub fn cache(&mut self, op: usize, i: usize) -> Result<Cache> {
        let (o, t) = self.operand(op, i)?;
        let view = o
            .cache
            .ok_or_else(|| self.refuse(format!("input {i} of op {op} is not a cache")))?;
        let data = self.recorder.slice(&t.buffer, t.offset, t.bytes as usize)?;
        Ok(Cache { data, view })
    }

    /// Input `i` of op `op`, rows of u32.
    pub fn ids(&mut self, op: usize, i: usize) -> Result<Rows<u32>> {
        let (o, t) = self.operand(op, i)?;
        self.rows(o, t)
    }

    /// Input `i` of op `op`, a recurrent state.
    pub fn state(&mut self, op: usize, i: usize) -> Result<State> {
        let (o, t) = self.operand(op, i)?;
        let view = o
            .state
            .ok_or_else(|| self.refuse(format!("input {i} of op {op} is not a state")))?;
        let len = t.bytes as usize / 4;
        let data = self.recorder.slice(&t.buffer, t.offset, len)?;
        Ok(State { data, view })
    }

    /// Whether op `op` has an input `i`.
    pub fn has(&self, op: usize, i: usize) -> bool {
        self.problem.input(op, i).is_some()
    }

    /// Output `i`.
    pub fn output<T: Copy + 'static>(&mut self, i: usize) -> Result<Rows<T>> {
        self.rows(&self.problem.outputs[i], &self.binds.outputs[i])
    }

    /// The scratch: `len` elements.
    pub fn workspace<T: Copy + 'static>(&mut self, len: usize) -> Result<CpuSlice<T>> {
        let bytes = (len * size_of::<T>()) as u64;
        match &self.binds.workspace {
            Some(t) if t.bytes >= bytes => Ok(self.recorder.slice(&t.buffer, t.offset, len)?),
            Some(t) => {
                Err(self.refuse(format!("{bytes} bytes of scratch wanted, got {}", t.bytes)))
            }
            None => Err(self.refuse("recorded without its workspace")),
        }
    }

    pub fn meta(&mut self) -> Result<Meta> {
        let t = &self.binds.step;
        let layout = self.problem.step.clone();
        let words = self.recorder.slice(&t.buffer, t.offset, layout.words())?;
        Ok(Meta { words, layout })
    }

    /// The counter that bounds the rows of output `i`.
    pub fn rows_of(&self, i: usize) -> RowsFrom {
        self.problem.outputs[i].rows
    }

    /// Appends a body at this device's instruction set, with the accesses that
    /// `Binds` implies.
    pub fn body<B: Body>(&mut self, body: B) -> Result<()> {
        let level = self.level;
        self.task(move |ctx| level.run(&body, ctx))
    }

    /// As [`Step::body`], for bodies with byte products.
    pub fn int_body<B: IntBody>(&mut self, body: B) -> Result<()> {
        let level = self.level;
        self.task(move |ctx| level.run_int(&body, ctx))
    }

    pub fn task(&mut self, run: impl Fn(&TaskCtx) + Send + Sync + 'static) -> Result<()> {
        let accesses = self.binds.accesses();
        self.recorder.task(self.key, &accesses, run);
        Ok(())
    }
}

/// Rows of an activation: contiguous inside, `stride` elements apart. Checked
/// when recorded: `count` rows of `len` lie in the operand.
#[derive(Clone, Copy)]
pub struct Rows<T> {
    data: CpuSlice<T>,
    pub stride: usize,
    pub count: usize,
    /// Elements of a row.
    pub len: usize,
}

impl<T> Rows<T> {
    /// First element of a row.
    #[inline(always)]
    pub fn at(&self, row: usize) -> *mut T {
        debug_assert!(row < self.count);
        // Stays inside the operand for any row below `count`.
        self.data.as_ptr().wrapping_add(row * self.stride)
    }
}

/// A layer's keys and values in the pages of its group.
#[derive(Clone, Copy)]
pub struct Cache {
    data: CpuSlice<u8>,
    pub view: CacheView,
}

impl Cache {
    /// Address of the first element of a token's head.
    #[inline(always)]
    pub fn at(&self, page: u32, kv: usize, head: usize, token: usize, elem: usize) -> *mut u8 {
        self.run(page, kv, head, (token, 1), elem)
    }

    /// Address of the first of `count` tokens of a page, all of them in the pool.
    #[inline(always)]
    pub fn run(
        &self,
        page: u32,
        kv: usize,
        head: usize,
        (token, count): (usize, usize),
        elem: usize,
    ) -> *mut u8 {
        let v = &self.view;
        let first = v.at(page as usize, kv, head, token) * elem;
        // A wrong page would be a defect of the runtime; stop before memory is
        // touched.
        let len = ((count - 1) * v.token_stride + v.head_dim) * elem;
        assert!(first + len <= self.data.len());
        self.address(first)
    }

    /// Where a head's scale lies, an f16.
    #[inline(always)]
    pub fn scale(&self, page: u32, kv: usize, head: usize, token: usize) -> *mut [u8; 2] {
        self.scales(page, kv, head, (token, 1))
    }

    /// Where the scales of `count` tokens of a page begin, one behind the other, all
    /// of them in the pool.
    #[inline(always)]
    pub fn scales(
        &self,
        page: u32,
        kv: usize,
        head: usize,
        (token, count): (usize, usize),
    ) -> *mut [u8; 2] {
        let first = self.view.scale_at((page as usize, kv), head, token, 2);
        assert!(first + 2 * count <= self.data.len());
        self.data.as_ptr().wrapping_add(first).cast()
    }

    /// An address that need not be in the pool.
    #[inline(always)]
    pub fn address(&self, bytes: usize) -> *mut u8 {
        self.data.as_ptr().wrapping_add(bytes)
    }
}

/// A layer's recurrent state in the slots of the pool.
#[derive(Clone, Copy)]
pub struct State {
    data: CpuSlice<f32>,
    pub view: StateView,
}

impl State {
    /// Address of a slot's state, all of it in the pool.
    #[inline(always)]
    pub fn at(&self, slot: usize) -> *mut f32 {
        let first = self.view.at(slot);
        // A wrong slot would be a defect of the runtime; stop before memory is
        // touched.
        assert!(first + self.view.len <= self.data.len());
        self.data.as_ptr().wrapping_add(first)
    }
}

/// The step buffer.
pub struct Meta {
    words: CpuSlice<u32>,
    layout: Arc<StepLayout>,
}

impl Meta {
    /// Inside the task that declared the read of the step buffer, which is every
    /// task of [`Step::task`].
    #[inline(always)]
    pub fn view(&self) -> StepView<'_> {
        // SAFETY: only bodies hold a `Meta`, `Binds::accesses` declares the
        // read, and no kernel writes the step buffer.
        StepView::new(&self.layout, unsafe { self.words.get() })
    }
}

/// Rows that this step asks for, bounded by the operand.
#[inline(always)]
pub fn real_rows(view: &StepView<'_>, from: RowsFrom, bound: usize) -> usize {
    view.count(from).min(bound)
}

/// `Err` unless the device lists the feature.
#[cfg(target_arch = "x86_64")]
pub fn needs(info: &DeviceInfo, feature: &str) -> Fits {
    if info.has(feature) {
        Ok(())
    } else {
        Err(format!("needs {feature}"))
    }
}
