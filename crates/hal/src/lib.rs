//! Devices, buffers and recordings.
//!
//! One module per driver API, each opened at run time: [`cpu`], [`cuda`],
//! [`vulkan`].
//! Everything above this crate sees only the traits here; a kernel tree that
//! needs its API's own recorder downcasts to it (`CpuRecorder`, `CudaRecorder`,
//! `VulkanRecorder`).
//!
//! A [`Buffer`] is a handle: the host cannot read or write it, because on most
//! devices it could not. Host data moves through [`Device::upload`],
//! [`Device::download`] and, inside a recording, through a [`Mailbox`].

pub mod cpu;
pub mod cuda;
mod hazard;
mod ranges;
pub mod vulkan;

pub use hazard::{Access, HazardTracker};

use std::any::Any;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HalError {
    #[error("{api}: no driver: {reason}")]
    NoDriver { api: &'static str, reason: String },
    #[error("{api}: no usable device: {reason}")]
    NoDevice { api: &'static str, reason: String },
    #[error(
        "{device}: out of memory allocating {label} ({bytes} bytes; {available} available): use a shorter --ctx or a smaller model"
    )]
    OutOfMemory {
        device: String,
        label: String,
        bytes: u64,
        available: String,
    },
    #[error(
        "{device}: device lost while running {what}: restart; if it happens again, update the driver"
    )]
    DeviceLost { device: String, what: String },
    #[error("{api}: {call} failed: {reason}")]
    Driver {
        api: &'static str,
        call: &'static str,
        reason: String,
    },
    #[error("a kernel failed in step '{step}': {reason}")]
    Kernel { step: String, reason: String },
    #[error("{what}: bytes {start}..{end} are outside a buffer of {len} bytes")]
    OutOfRange {
        what: &'static str,
        start: u64,
        end: u64,
        len: u64,
    },
    #[error("a {found} object was given to a {wanted} device")]
    WrongDevice {
        wanted: &'static str,
        found: &'static str,
    },
}

pub type Result<T, E = HalError> = std::result::Result<T, E>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceKind {
    /// Ordered as `auto` prefers them.
    Discrete,
    Integrated,
    Cpu,
    /// A GPU API whose driver runs on the CPU (lavapipe): for tests, by name only.
    Software,
}

/// What is known of a device before and after it is opened.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// The driver API: `cpu`, `vulkan`, …
    pub api: &'static str,
    /// Position among the API's devices, as `--device` counts them.
    pub index: usize,
    pub name: String,
    pub driver: String,
    /// Stable identity where the API has one.
    pub uuid: Option<String>,
    pub kind: DeviceKind,
    pub memory_total: u64,
    /// Capabilities that kernels may ask for, by the API's own names
    /// (`avx512bf16`, `shader_float16`, …).
    pub features: BTreeSet<&'static str>,
    /// Threads for a CPU; 1 elsewhere.
    pub threads: usize,
    /// Lanes of a subgroup (warp, wave); 1 for a CPU.
    pub subgroup: u32,
}

impl DeviceInfo {
    pub fn has(&self, feature: &str) -> bool {
        self.features.contains(feature)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(u64);

struct BufferInner {
    id: BufferId,
    api: &'static str,
    len: u64,
    memory: Box<dyn Any + Send + Sync>,
}

/// A range of device memory, freed with its last clone. Opaque on purpose.
#[derive(Clone)]
pub struct Buffer(Arc<BufferInner>);

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}[{}]", self.0.api, self.0.id.0, self.0.len)
    }
}

impl Buffer {
    fn new(api: &'static str, len: u64, memory: Box<dyn Any + Send + Sync>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = BufferId(NEXT.fetch_add(1, Ordering::Relaxed));
        Buffer(Arc::new(BufferInner {
            id,
            api,
            len,
            memory,
        }))
    }

    pub fn id(&self) -> BufferId {
        self.0.id
    }

    pub fn len(&self) -> u64 {
        self.0.len
    }

    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    fn memory<T: 'static>(&self, wanted: &'static str) -> Result<&T> {
        self.0.memory.downcast_ref().ok_or(HalError::WrongDevice {
            wanted,
            found: self.0.api,
        })
    }

    fn check(&self, what: &'static str, offset: u64, bytes: u64) -> Result<Range<u64>> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.len() => Ok(offset..end),
            end => Err(HalError::OutOfRange {
                what,
                start: offset,
                end: end.unwrap_or(u64::MAX),
                len: self.len(),
            }),
        }
    }
}

/// Host memory that a device may use in place, kept alive by the owner.
#[derive(Clone)]
pub struct HostRegion {
    pub owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    pub range: Range<usize>,
}

/// Host-visible memory through which a recording receives its per-step inputs
/// and hands back results. Written and read only between runs.
pub trait Mailbox: Send + Sync {
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    fn write(&self, offset: usize, bytes: &[u8]) -> Result<()>;
    fn read(&self, offset: usize, out: &mut [u8]) -> Result<()>;
    fn as_any(&self) -> &dyn Any;
}

pub trait Device: Send + Sync {
    fn info(&self) -> &DeviceInfo;

    /// Bytes that can still be allocated, as far as the driver or the operating
    /// system (cgroup limits included) tells.
    fn available_memory(&self) -> u64;

    /// Bytes allocated through this device now, and the most there ever were.
    fn allocated(&self) -> (u64, u64);

    /// Zeroed memory, aligned to at least 256 bytes.
    fn alloc(&self, bytes: u64, label: &str) -> Result<Buffer>;

    /// Uses host memory in place. `None` where the device cannot: upload then.
    fn import(&self, region: &HostRegion) -> Result<Option<Buffer>>;

    /// Lets `fill` write `bytes` bytes of `dst` at `offset`, without a second
    /// copy where the device's memory is the host's.
    fn fill(
        &self,
        dst: &Buffer,
        offset: u64,
        bytes: u64,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<()>;

    fn upload(&self, dst: &Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        self.fill(dst, offset, bytes.len() as u64, &mut |out| {
            out.copy_from_slice(bytes)
        })
    }

    fn download(&self, src: &Buffer, offset: u64, out: &mut [u8]) -> Result<()>;

    fn mailbox(&self, bytes: usize) -> Result<Arc<dyn Mailbox>>;

    fn recorder(&self, label: &str) -> Result<Box<dyn Recorder>>;

    fn as_any(&self) -> &dyn Any;
}

/// Collects the work of one step. Commands run in order; a barrier is placed
/// between two only where their declared accesses conflict.
pub trait Recorder {
    fn copy(
        &mut self,
        src: &Buffer,
        src_offset: u64,
        dst: &Buffer,
        dst_offset: u64,
        bytes: u64,
    ) -> Result<()>;

    /// Copies from the start of a mailbox to a buffer.
    fn copy_in(
        &mut self,
        src: &Arc<dyn Mailbox>,
        dst: &Buffer,
        offset: u64,
        bytes: u64,
    ) -> Result<()>;

    /// Copies from a buffer to `at` in a mailbox.
    fn copy_out(
        &mut self,
        src: &Buffer,
        offset: u64,
        bytes: u64,
        dst: &Arc<dyn Mailbox>,
        at: usize,
    ) -> Result<()>;

    /// Commands so far: the place of the next one in [`Recording::run_timed`].
    fn commands(&self) -> usize;

    fn finish(self: Box<Self>) -> Result<Box<dyn Recording>>;

    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// A recorded step, replayed any number of times with what the mailboxes and
/// buffers then hold. Keeps every buffer it touches alive.
pub trait Recording: Send + Sync {
    /// One submission; returns when the results are in the mailboxes.
    fn run(&self) -> Result<()>;

    /// Commands and barriers recorded, for tests and reports.
    fn stats(&self) -> RecordingStats;

    /// As [`Recording::run`], with the time of each labelled command.
    fn run_timed(&self) -> Result<Vec<StepTime>>;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordingStats {
    pub commands: usize,
    pub barriers: usize,
}

#[derive(Clone, Debug)]
pub struct StepTime {
    pub label: String,
    pub seconds: f64,
}
