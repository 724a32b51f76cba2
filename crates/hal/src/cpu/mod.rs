//! The CPU as a device: host memory, a thread pool, recordings of entry points.

mod barrier;
mod features;
mod memory;
mod pool;
mod record;

pub use barrier::Barrier;
pub use features::{IsaLevel, detect, physical_threads};
pub use memory::{available_memory, peak_resident_memory};
pub use record::{CpuRecorder, CpuSlice, TaskCtx};

use crate::{Buffer, Device, DeviceInfo, DeviceKind, HalError, HostRegion, Mailbox, Recorder};
use crate::{Result, hazard::HazardTracker};
use memory::{CpuMailbox, Memory};
use pool::Pool;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) const API: &str = "cpu";

#[derive(Clone, Debug, Default)]
pub struct CpuOptions {
    /// Threads that run kernels; by default the physical cores this process may
    /// use (affinity and cgroup quota).
    pub threads: Option<usize>,
    /// Pretends that the CPU has no more than this.
    pub isa: Option<IsaLevel>,
    /// Keeps every thread, the one that runs recordings too, on a core of its own.
    /// Not the default: two processes that pin meet on the same cores.
    pub pin: bool,
}

/// One process-wide pool of threads over host memory.
pub struct CpuDevice {
    info: DeviceInfo,
    pool: Arc<Pool>,
    counters: Arc<Counters>,
}

#[derive(Default)]
pub(crate) struct Counters {
    now: AtomicU64,
    peak: AtomicU64,
}

impl Counters {
    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    pub fn add(&self, bytes: u64) {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }

    pub fn sub(&self, bytes: u64) {
        self.now.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What [`CpuDevice::open`] would give, without starting threads.
pub fn probe(options: &CpuOptions) -> Result<DeviceInfo> {
    let threads = options.threads.unwrap_or_else(physical_threads);
    if threads == 0 || threads > 1024 {
        return Err(HalError::NoDevice {
            api: API,
            reason: format!("{threads} threads asked for: use 1 to 1024"),
        });
    }
    let level = features::choose(options.isa)?;
    Ok(DeviceInfo {
        api: API,
        index: 0,
        name: features::cpu_name(),
        driver: format!("{level} kernels allowed"),
        uuid: None,
        kind: DeviceKind::Cpu,
        memory_total: memory::total_memory(),
        features: features::features_up_to(level),
        threads,
        subgroup: 1,
    })
}

/// A core for each thread.
fn places(threads: usize, mut cores: Vec<usize>) -> Result<Vec<usize>> {
    if cores.len() < threads {
        return Err(HalError::NoDevice {
            api: API,
            reason: format!(
                "{threads} threads cannot be pinned to {} cores: use fewer threads, or do not pin",
                cores.len()
            ),
        });
    }
    cores.truncate(threads);
    Ok(cores)
}

impl CpuDevice {
    pub fn open(options: &CpuOptions) -> Result<Self> {
        let info = probe(options)?;
        let places = match options.pin {
            true => Some(places(info.threads, features::cores())?),
            false => None,
        };
        let pool = Arc::new(Pool::start(info.threads, places)?);
        Ok(CpuDevice {
            info,
            pool,
            counters: Arc::default(),
        })
    }
}

impl Device for CpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn available_memory(&self) -> u64 {
        available_memory()
    }

    fn allocated(&self) -> (u64, u64) {
        (self.counters.now(), self.counters.peak())
    }

    fn alloc(&self, bytes: u64, label: &str) -> Result<Buffer> {
        let memory =
            Memory::zeroed(bytes, self.counters.clone()).ok_or_else(|| HalError::OutOfMemory {
                device: self.info.name.clone(),
                label: label.into(),
                bytes,
                available: available_memory().to_string(),
            })?;
        Ok(Buffer::new(API, bytes, Box::new(memory)))
    }

    fn import(&self, region: &HostRegion) -> Result<Option<Buffer>> {
        let memory = Memory::imported(region);
        // A mapped file gives what alignment its writer chose; kernels need
        // whole elements.
        if !(memory.ptr() as usize).is_multiple_of(4) {
            return Ok(None);
        }
        let len = region.range.len() as u64;
        Ok(Some(Buffer::new(API, len, Box::new(memory))))
    }

    fn fill(
        &self,
        dst: &Buffer,
        offset: u64,
        bytes: u64,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<()> {
        let range = dst.check("upload", offset, bytes)?;
        let memory: &Memory = dst.memory(API)?;
        if !memory.writable() {
            return Err(HalError::Driver {
                api: API,
                call: "upload",
                reason: "the buffer is an imported, read-only file mapping".into(),
            });
        }
        let _idle = self.pool.exclusive();
        // SAFETY: the range is in bounds and writable, and no recording runs
        // while the pool is held.
        let out = unsafe {
            std::slice::from_raw_parts_mut(memory.ptr().add(range.start as usize), bytes as usize)
        };
        fill(out);
        Ok(())
    }

    fn download(&self, src: &Buffer, offset: u64, out: &mut [u8]) -> Result<()> {
        let range = src.check("download", offset, out.len() as u64)?;
        let memory: &Memory = src.memory(API)?;
        let _idle = self.pool.exclusive();
        // SAFETY: the range is in bounds, and no recording runs while the pool
        // is held.
        out.copy_from_slice(unsafe {
            std::slice::from_raw_parts(memory.ptr().add(range.start as usize), out.len())
        });
        Ok(())
    }

    fn mailbox(&self, bytes: usize) -> Result<Arc<dyn Mailbox>> {
        let mailbox = CpuMailbox::new(bytes).ok_or_else(|| HalError::OutOfMemory {
            device: self.info.name.clone(),
            label: "mailbox".into(),
            bytes: bytes as u64,
            available: available_memory().to_string(),
        })?;
        Ok(Arc::new(mailbox))
    }

    fn recorder(&self, label: &str) -> Result<Box<dyn Recorder>> {
        Ok(Box::new(CpuRecorder::new(
            label,
            self.pool.clone(),
            HazardTracker::default(),
        )))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
