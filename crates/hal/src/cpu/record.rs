//! Recordings on the CPU: a list of entry points that the pool calls.

use super::API;
use super::barrier::Barrier;
use super::memory::{Memory, mailbox_of};
use super::pool::Pool;
use crate::{Access, Buffer, HazardTracker, Mailbox, Recorder, Recording, RecordingStats};
use crate::{HalError, Result, StepTime};
use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;

/// What an entry point is told of the thread that calls it.
pub struct TaskCtx<'a> {
    pub thread: usize,
    pub threads: usize,
    /// For steps of several phases; every thread must reach it equally often.
    pub barrier: &'a Barrier,
}

impl TaskCtx<'_> {
    /// This thread's contiguous share of `n` items, the same in every run.
    pub fn share(&self, n: usize) -> std::ops::Range<usize> {
        let (t, all) = (self.thread, self.threads);
        n * t / all..n * (t + 1) / all
    }
}

pub(crate) type Task = Box<dyn Fn(&TaskCtx) + Send + Sync>;

pub(crate) struct Step {
    pub label: String,
    pub barrier_before: bool,
    pub run: Task,
}

/// Elements of a buffer as a kernel's entry point sees them. Only a
/// [`CpuRecorder`] hands these out, for the accesses that the step declares.
pub struct CpuSlice<T> {
    ptr: *mut T,
    len: usize,
    marker: PhantomData<T>,
}

impl<T> Clone for CpuSlice<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for CpuSlice<T> {}

// SAFETY: a slice is an address and a length; the unsafe accessors state what
// the caller must uphold to follow it.
unsafe impl<T: Send> Send for CpuSlice<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for CpuSlice<T> {}

impl<T> CpuSlice<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn as_ptr(&self) -> *mut T {
        self.ptr
    }

    /// # Safety
    /// Only inside the entry point of a step that declared a read of this
    /// range, and while no other thread writes it.
    pub unsafe fn get<'a>(self) -> &'a [T] {
        // SAFETY: in bounds and aligned by construction; aliasing is the
        // caller's promise.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }

    /// # Safety
    /// Only inside the entry point of a step that declared a write of this
    /// range, and only for elements no other thread touches meanwhile.
    pub unsafe fn get_mut<'a>(self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: in bounds by the assertion; exclusivity is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }
}

/// Records entry points. Kernel trees reach it by
/// `recorder.as_any_mut().downcast_mut::<CpuRecorder>()`.
pub struct CpuRecorder {
    label: String,
    pool: Arc<Pool>,
    tracker: HazardTracker,
    steps: Vec<Step>,
    keep: Vec<Buffer>,
}

impl CpuRecorder {
    pub(crate) fn new(label: &str, pool: Arc<Pool>, tracker: HazardTracker) -> Self {
        CpuRecorder {
            label: label.into(),
            pool,
            tracker,
            steps: Vec::new(),
            keep: Vec::new(),
        }
    }

    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// `len` elements of `T` at byte `offset`. The recording keeps the buffer
    /// alive.
    pub fn slice<T: Copy + 'static>(
        &mut self,
        buffer: &Buffer,
        offset: u64,
        len: usize,
    ) -> Result<CpuSlice<T>> {
        let bytes = (len as u64).checked_mul(size_of::<T>() as u64);
        buffer.check("slice", offset, bytes.unwrap_or(u64::MAX))?;
        let memory: &Memory = buffer.memory(API)?;
        // SAFETY: the offset is inside the allocation (checked above).
        let ptr = unsafe { memory.ptr().add(offset as usize) };
        if !(ptr as usize).is_multiple_of(align_of::<T>()) {
            return Err(HalError::Driver {
                api: API,
                call: "slice",
                reason: format!("offset {offset} is not aligned to {}", align_of::<T>()),
            });
        }
        self.keep.push(buffer.clone());
        Ok(CpuSlice {
            ptr: ptr.cast(),
            len,
            marker: PhantomData,
        })
    }

    /// As [`CpuRecorder::slice`], to be written: never of a read-only mapping.
    fn writable(
        &mut self,
        call: &'static str,
        buffer: &Buffer,
        offset: u64,
        bytes: u64,
    ) -> Result<CpuSlice<u8>> {
        if !buffer.memory::<Memory>(API)?.writable() {
            return Err(HalError::Driver {
                api: API,
                call,
                reason: "the buffer is an imported, read-only file mapping".into(),
            });
        }
        self.slice::<u8>(buffer, offset, bytes as usize)
    }

    /// Appends an entry point with the ranges it reads and writes.
    pub fn task(
        &mut self,
        label: impl Into<String>,
        accesses: &[Access],
        run: impl Fn(&TaskCtx) + Send + Sync + 'static,
    ) {
        let barrier_before = self.tracker.next(accesses);
        self.steps.push(Step {
            label: label.into(),
            barrier_before,
            run: Box::new(run),
        });
    }
}

impl Recorder for CpuRecorder {
    fn copy(
        &mut self,
        src: &Buffer,
        src_offset: u64,
        dst: &Buffer,
        dst_offset: u64,
        bytes: u64,
    ) -> Result<()> {
        let from = self.slice::<u8>(src, src_offset, bytes as usize)?;
        let to = self.writable("copy", dst, dst_offset, bytes)?;
        if src.id() == dst.id() && src_offset.abs_diff(dst_offset) < bytes {
            return Err(HalError::Driver {
                api: API,
                call: "copy",
                reason: "source and destination overlap".into(),
            });
        }
        let accesses = [
            Access::read(src, src_offset..src_offset + bytes),
            Access::write(dst, dst_offset..dst_offset + bytes),
        ];
        self.task("copy", &accesses, move |ctx| {
            let r = ctx.share(from.len());
            // SAFETY: both ranges are declared and do not overlap, and threads take
            // disjoint shares.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    from.as_ptr().add(r.start),
                    to.as_ptr().add(r.start),
                    r.len(),
                )
            }
        });
        Ok(())
    }

    fn copy_in(
        &mut self,
        src: &Arc<dyn Mailbox>,
        dst: &Buffer,
        offset: u64,
        bytes: u64,
    ) -> Result<()> {
        mailbox_of(src)?.check("copy_in", 0, bytes)?;
        let src = src.clone();
        let to = self.writable("copy_in", dst, offset, bytes)?;
        let accesses = [Access::write(dst, offset..offset + bytes)];
        self.task("copy_in", &accesses, move |ctx| {
            if ctx.thread == 0 {
                // SAFETY: a declared write, by this thread alone.
                let out = unsafe { to.get_mut(0, to.len()) };
                let from = mailbox_of(&src).map(|m| m.lock());
                out.copy_from_slice(&from.expect("checked when recorded")[..out.len()]);
            }
        });
        Ok(())
    }

    fn copy_out(
        &mut self,
        src: &Buffer,
        offset: u64,
        bytes: u64,
        dst: &Arc<dyn Mailbox>,
        at: usize,
    ) -> Result<()> {
        mailbox_of(dst)?.check("copy_out", at, bytes)?;
        let dst = dst.clone();
        let from = self.slice::<u8>(src, offset, bytes as usize)?;
        let accesses = [Access::read(src, offset..offset + bytes)];
        self.task("copy_out", &accesses, move |ctx| {
            if ctx.thread == 0 {
                // SAFETY: a declared read, ordered after its writers.
                let data = unsafe { from.get() };
                let to = mailbox_of(&dst).map(|m| m.lock());
                to.expect("checked when recorded")[at..at + data.len()].copy_from_slice(data);
            }
        });
        Ok(())
    }

    fn commands(&self) -> usize {
        self.steps.len()
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn Recording>> {
        Ok(Box::new(CpuRecording {
            label: self.label,
            pool: self.pool,
            steps: self.steps,
            _keep: self.keep,
        }))
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

struct CpuRecording {
    label: String,
    pool: Arc<Pool>,
    steps: Vec<Step>,
    _keep: Vec<Buffer>,
}

impl Recording for CpuRecording {
    fn run(&self) -> Result<()> {
        self.pool.run(&self.steps, false).map(|_| ())
    }

    fn stats(&self) -> RecordingStats {
        RecordingStats {
            commands: self.steps.len(),
            barriers: self.steps.iter().filter(|s| s.barrier_before).count(),
        }
    }

    fn run_timed(&self) -> Result<Vec<StepTime>> {
        let mut times = self.pool.run(&self.steps, true)?;
        times
            .iter_mut()
            .for_each(|t| t.label.insert_str(0, &format!("{}/", self.label)));
        Ok(times)
    }
}
