//! Recordings: one CUDA graph, launched once for each run.

use super::API;
use super::device::{Queue, Shared, new_event};
use super::driver::{Limits, driver_error};
use super::memory::{CudaMailbox, Memory};
use super::module::CudaFunction;
use crate::{Access, Buffer, HalError, HazardTracker, Mailbox, Recorder, Recording};
use crate::{RecordingStats, Result, StepTime};
use cudarc::driver::sys::{self, CUresult};
use std::any::Any;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::Ordering;

enum Command {
    Copy {
        src: u64,
        dst: u64,
        bytes: usize,
    },
    Launch {
        function: CudaFunction,
        /// The parameter struct, at the alignment of its pointers.
        params: Vec<u64>,
        grid: [u32; 3],
        block: u32,
        shared: u32,
    },
}

struct Step {
    label: String,
    command: Command,
}

/// One use of a kernel.
pub struct Launch<'a> {
    pub label: &'a str,
    pub function: &'a CudaFunction,
    /// The bytes of its one parameter, a struct; fixed from here on.
    pub params: &'a [u8],
    pub grid: [u32; 3],
    pub block: u32,
    /// Dynamic shared memory, bytes.
    pub shared: u32,
    /// Buffers that the parameters point into.
    pub keep: &'a [Buffer],
    pub accesses: &'a [Access],
}

/// Collects commands. Kernel trees reach it by
/// `recorder.as_any_mut().downcast_mut::<CudaRecorder>()`.
pub struct CudaRecorder {
    label: String,
    shared: Arc<Shared>,
    tracker: HazardTracker,
    barriers: usize,
    steps: Vec<Step>,
    keep: Vec<Buffer>,
}

impl CudaRecorder {
    pub(super) fn new(label: &str, shared: &Arc<Shared>) -> Self {
        CudaRecorder {
            label: label.into(),
            shared: shared.clone(),
            tracker: HazardTracker::default(),
            barriers: 0,
            steps: Vec::new(),
            keep: Vec::new(),
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    pub(super) fn device_shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Address of byte `offset` of a buffer, for a parameter that may reach
    /// `bytes` bytes from there.
    pub fn address(&self, buffer: &Buffer, offset: u64, bytes: u64) -> Result<u64> {
        let range = buffer.check("operand", offset, bytes)?;
        Ok(Memory::of(&self.shared, buffer)?.address() + range.start)
    }

    fn push(&mut self, label: &str, accesses: &[Access], command: Command) {
        // On one stream order suffices; the count shows what the declarations say.
        self.barriers += usize::from(self.tracker.next(accesses));
        self.steps.push(Step {
            label: label.into(),
            command,
        });
    }

    /// Appends a launch. An empty grid records nothing.
    ///
    /// # Errors
    /// A function of another device, parameters of another size than the kernel's,
    /// a grid or shared memory beyond the device's.
    pub fn launch(&mut self, launch: &Launch<'_>) -> Result<()> {
        let function = launch.function;
        if !Arc::ptr_eq(&function.module.shared, &self.shared) {
            return Err(HalError::WrongDevice {
                wanted: API,
                found: "cuda (another device's)",
            });
        }
        let bad = |reason: String| {
            driver_error(
                "cuLaunchKernel",
                format!("{} ({}): {reason}", launch.label, function.name),
            )
        };
        // A struct's size is a multiple of its alignment.
        if launch.params.len().next_multiple_of(8) != function.params.next_multiple_of(8) {
            return Err(bad(format!(
                "{} bytes of parameters given, the kernel takes {}",
                launch.params.len(),
                function.params
            )));
        }
        let limits = &self.shared.limits;
        if (0..3).any(|i| launch.grid[i] > limits.grid[i]) {
            return Err(bad(format!(
                "a grid of {:?}, the device takes {:?}",
                launch.grid, limits.grid
            )));
        }
        if launch.grid.contains(&0) {
            return Ok(());
        }
        function.allow_shared(launch.shared)?;
        let mut params = vec![0u64; launch.params.len().div_ceil(8).max(1)];
        for (word, bytes) in params.iter_mut().zip(launch.params.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_le_bytes(whole);
        }
        self.keep.extend(launch.keep.iter().cloned());
        let command = Command::Launch {
            function: function.clone(),
            params,
            grid: launch.grid,
            block: launch.block,
            shared: launch.shared,
        };
        self.push(launch.label, launch.accesses, command);
        Ok(())
    }

    fn copy_labelled(
        &mut self,
        label: &str,
        (src, src_offset): (&Buffer, u64),
        (dst, dst_offset): (&Buffer, u64),
        size: u64,
    ) -> Result<()> {
        let from = src.check("copy source", src_offset, size)?;
        let to = dst.check("copy destination", dst_offset, size)?;
        let a = Memory::of(&self.shared, src)?.address() + from.start;
        let b = Memory::of(&self.shared, dst)?.address() + to.start;
        if size == 0 {
            return Ok(());
        }
        if a < b + size && b < a + size {
            return Err(driver_error(
                "copy",
                format!("source {from:?} and destination {to:?} overlap in one buffer"),
            ));
        }
        self.keep.extend([src.clone(), dst.clone()]);
        let command = Command::Copy {
            src: a,
            dst: b,
            bytes: size as usize,
        };
        let accesses = [Access::read(src, from), Access::write(dst, to)];
        self.push(label, &accesses, command);
        Ok(())
    }
}

impl Recorder for CudaRecorder {
    fn copy(
        &mut self,
        src: &Buffer,
        src_offset: u64,
        dst: &Buffer,
        dst_offset: u64,
        bytes: u64,
    ) -> Result<()> {
        self.copy_labelled("copy", (src, src_offset), (dst, dst_offset), bytes)
    }

    fn copy_in(
        &mut self,
        src: &Arc<dyn Mailbox>,
        dst: &Buffer,
        offset: u64,
        bytes: u64,
    ) -> Result<()> {
        let src = CudaMailbox::of(src)?.buffer.clone();
        self.copy_labelled("copy_in", (&src, 0), (dst, offset), bytes)
    }

    fn copy_out(
        &mut self,
        src: &Buffer,
        offset: u64,
        bytes: u64,
        dst: &Arc<dyn Mailbox>,
        at: usize,
    ) -> Result<()> {
        let dst = CudaMailbox::of(dst)?.buffer.clone();
        self.copy_labelled("copy_out", (src, offset), (&dst, at as u64), bytes)
    }

    fn commands(&self) -> usize {
        self.steps.len()
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn Recording>> {
        let mut recording = CudaRecording {
            label: self.label,
            shared: self.shared,
            steps: self.steps,
            barriers: self.barriers,
            graph: std::ptr::null_mut(),
            _keep: self.keep,
        };
        recording.capture()?;
        Ok(Box::new(recording))
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// Which steps may start before the one ahead has ended: kernels that wait by
/// themselves, behind kernels. What such a kernel waits for has itself waited, so
/// all that is further ahead has ended too.
fn early_starts(steps: &[Step], limits: &Limits) -> Vec<bool> {
    let kernel = |s: &Step| match &s.command {
        Command::Launch { function, .. } => Some(function.waits),
        Command::Copy { .. } => None,
    };
    let behind = |i: usize| i > 0 && kernel(&steps[i - 1]).is_some();
    (0..steps.len())
        .map(|i| limits.early_starts && behind(i) && kernel(&steps[i]) == Some(true))
        .collect()
}

struct CudaRecording {
    label: String,
    shared: Arc<Shared>,
    steps: Vec<Step>,
    barriers: usize,
    /// Null if there is nothing to run.
    graph: sys::CUgraphExec,
    _keep: Vec<Buffer>,
}

// SAFETY: handles; launches go through the queue's lock.
unsafe impl Send for CudaRecording {}
// SAFETY: as above.
unsafe impl Sync for CudaRecording {}

impl CudaRecording {
    /// Puts all steps on the stream once, while it is captured.
    fn capture(&mut self) -> Result<()> {
        if self.steps.is_empty() {
            return Ok(());
        }
        let shared = self.shared.clone();
        shared.enter()?;
        let queue = shared.queue();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is ours while the queue is held.
        let got = unsafe { sys::cuStreamBeginCapture_v2(queue.stream, mode) };
        shared.check(got, "cuStreamBeginCapture")?;
        let early = early_starts(&self.steps, &shared.limits);
        let mut steps = self.steps.iter().zip(early);
        let issued = steps.try_for_each(|(s, early)| self.issue(&queue, s, early));
        let mut graph = std::ptr::null_mut();
        // SAFETY: ends the capture begun above, whatever became of it.
        let ended = unsafe { sys::cuStreamEndCapture(queue.stream, &mut graph) };
        issued?;
        shared.check(ended, "cuStreamEndCapture")?;
        let mut exec = std::ptr::null_mut();
        // SAFETY: a complete graph, destroyed once it is instantiated.
        let made = unsafe {
            let made = sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0);
            sys::cuGraphDestroy(graph);
            made
        };
        shared.check(made, "cuGraphInstantiate")?;
        self.graph = exec;
        // SAFETY: a live graph; only moves its description to the device.
        let sent = unsafe { sys::cuGraphUpload(exec, queue.stream) };
        shared.check(sent, "cuGraphUpload")
    }

    /// Puts one step on the stream; `early`: it may start before the one ahead ends.
    fn issue(&self, queue: &Queue, step: &Step, early: bool) -> Result<()> {
        match &step.command {
            Command::Copy { src, dst, bytes } => {
                // SAFETY: both ranges were checked when the copy was recorded, and
                // the recording keeps their buffers.
                let got = unsafe { sys::cuMemcpyAsync(*dst, *src, *bytes, queue.stream) };
                self.shared.check(got, "cuMemcpyAsync")
            }
            Command::Launch {
                function,
                params,
                grid,
                block,
                shared,
            } => {
                // Another launch of the function may have asked for less since.
                function.allow_shared(*shared)?;
                let mut list = [params.as_ptr().cast_mut().cast::<c_void>()];
                // SAFETY: a plain struct of numbers.
                let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
                attribute.id =
                    sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
                attribute.value.programmaticStreamSerializationAllowed = 1;
                let config = sys::CUlaunchConfig {
                    gridDimX: grid[0],
                    gridDimY: grid[1],
                    gridDimZ: grid[2],
                    blockDimX: *block,
                    blockDimY: 1,
                    blockDimZ: 1,
                    sharedMemBytes: *shared,
                    hStream: queue.stream,
                    attrs: &mut attribute,
                    numAttrs: u32::from(early),
                };
                // SAFETY: the parameters have the size that the kernel declares
                // and point into buffers that the recording keeps; the driver
                // copies them.
                let got = unsafe {
                    sys::cuLaunchKernelEx(
                        &config,
                        function.handle,
                        list.as_mut_ptr(),
                        std::ptr::null_mut(),
                    )
                };
                match got {
                    CUresult::CUDA_SUCCESS => Ok(()),
                    e => Err(HalError::Kernel {
                        step: step.label.clone(),
                        reason: format!(
                            "{} does not start: {} with grid {grid:?}, {block} threads, {shared} bytes of shared memory",
                            function.name,
                            super::driver::text(e)
                        ),
                    }),
                }
            }
        }
    }
}

impl Recording for CudaRecording {
    fn run(&self) -> Result<()> {
        if self.graph.is_null() {
            return Ok(());
        }
        self.shared.enter()?;
        let queue = self.shared.queue();
        self.shared.launches.fetch_add(1, Ordering::Relaxed);
        // SAFETY: a live graph; the queue is held, so nothing else runs, and the
        // mailboxes are not touched until it is released.
        let got = unsafe { sys::cuGraphLaunch(self.graph, queue.stream) };
        self.shared.check(got, "cuGraphLaunch")?;
        self.shared.wait(&queue, &self.label)
    }

    fn stats(&self) -> RecordingStats {
        RecordingStats {
            commands: self.steps.len(),
            barriers: self.barriers,
        }
    }

    /// Eagerly, with an event between every two commands.
    fn run_timed(&self) -> Result<Vec<StepTime>> {
        let shared = &self.shared;
        shared.enter()?;
        let queue = shared.queue();
        let events = Events::new(shared, self.steps.len() + 1)?;
        let mark = |i: usize| {
            // SAFETY: live events and stream.
            let got = unsafe { sys::cuEventRecord(events.list[i], queue.stream) };
            shared.check(got, "cuEventRecord")
        };
        mark(0)?;
        for (i, step) in self.steps.iter().enumerate() {
            self.issue(&queue, step, false)?;
            mark(i + 1)?;
        }
        shared.wait(&queue, &self.label)?;
        let mut times = Vec::with_capacity(self.steps.len());
        for (step, pair) in self.steps.iter().zip(events.list.windows(2)) {
            let mut ms = 0f32;
            // SAFETY: both events have passed.
            let got = unsafe { sys::cuEventElapsedTime(&mut ms, pair[0], pair[1]) };
            shared.check(got, "cuEventElapsedTime")?;
            times.push(StepTime {
                label: format!("{}/{}", self.label, step.label),
                seconds: f64::from(ms) * 1e-3,
            });
        }
        Ok(times)
    }
}

impl Drop for CudaRecording {
    fn drop(&mut self) {
        if !self.graph.is_null() && self.shared.enter().is_ok() {
            // SAFETY: every run was waited for.
            unsafe { sys::cuGraphExecDestroy(self.graph) };
        }
    }
}

struct Events {
    list: Vec<sys::CUevent>,
}

impl Events {
    fn new(shared: &Shared, count: usize) -> Result<Self> {
        let mut events = Events {
            list: Vec::with_capacity(count),
        };
        for _ in 0..count {
            events.list.push(new_event(shared, true)?);
        }
        Ok(events)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        for event in self.list.drain(..) {
            // SAFETY: created by `new`, destroyed once.
            unsafe { sys::cuEventDestroy_v2(event) };
        }
    }
}
