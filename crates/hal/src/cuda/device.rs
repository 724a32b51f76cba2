//! An opened device: its context, its stream, memory and transfers.

use super::API;
use super::driver::{self, Limits, check, describe, driver_error};
use super::memory::{CudaMailbox, Heap, Memory, Pinned, Place};
use super::module::CudaModule;
use super::record::CudaRecorder;
use crate::cpu::Counters;
use crate::{Buffer, Device, DeviceInfo, HalError, HostRegion, Mailbox, Recorder, Result};
use cudarc::driver::sys::{self, CUresult};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Largest piece moved through staging memory at once, except by
/// [`Device::fill`], whose callers choose the piece.
const STAGING: usize = 32 << 20;

/// Pinned memory on the way to the device; free once its event has passed.
struct Slot {
    pinned: Pinned,
    event: sys::CUevent,
}

/// The stream; whoever holds this holds a device without a recording at work.
/// Transfers to it may still be under way: they are ahead of whatever follows.
pub(super) struct Queue {
    pub stream: sys::CUstream,
    /// Two, so that one is filled while the other is copied.
    slots: [Option<Slot>; 2],
    turn: usize,
}

// SAFETY: handles; the driver's calls on them are safe from any thread, and the
// pinned memory is reached under the lock.
unsafe impl Send for Queue {}

pub(super) struct Shared {
    pub info: DeviceInfo,
    pub limits: Limits,
    pub counters: Counters,
    handle: sys::CUdevice,
    context: sys::CUcontext,
    queue: Mutex<Queue>,
    heap: Mutex<Heap>,
    pub launches: AtomicU64,
}

// SAFETY: as for the queue; the context may be current on any number of threads.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn heap(&self) -> MutexGuard<'_, Heap> {
        self.heap.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn check(&self, result: CUresult, call: &'static str) -> Result<()> {
        check(result, &self.info.name, call)
    }

    /// Makes the device's context current on this thread.
    pub fn enter(&self) -> Result<()> {
        // SAFETY: the context is retained until this struct is dropped.
        let got = unsafe { sys::cuCtxSetCurrent(self.context) };
        self.check(got, "cuCtxSetCurrent")
    }

    pub fn wait(&self, queue: &Queue, what: &str) -> Result<()> {
        // SAFETY: a live stream.
        let got = unsafe { sys::cuStreamSynchronize(queue.stream) };
        match check(got, &self.info.name, "cuStreamSynchronize") {
            Err(HalError::DeviceLost { device, what: why }) => Err(HalError::DeviceLost {
                device,
                what: format!("{what} ({why})"),
            }),
            other => other,
        }
    }

    /// Free bytes as the driver counts them.
    fn available(&self) -> u64 {
        let (mut free, mut total) = (0usize, 0usize);
        if self.enter().is_err() {
            return 0;
        }
        // SAFETY: fills two numbers.
        match unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) } {
            CUresult::CUDA_SUCCESS => free as u64,
            _ => 0,
        }
    }

    fn out_of_memory(&self, bytes: u64, label: &str) -> HalError {
        HalError::OutOfMemory {
            device: self.info.name.clone(),
            label: label.into(),
            bytes,
            available: self.available().to_string(),
        }
    }
}

impl Queue {
    /// Pinned memory of at least `bytes`, not in use any more.
    fn slot(&mut self, shared: &Shared, bytes: usize) -> Result<&Slot> {
        self.turn = 1 - self.turn;
        let stream = self.stream;
        let place = &mut self.slots[self.turn];
        if let Some(slot) = place {
            // SAFETY: a live event; one never recorded has passed.
            let got = unsafe { sys::cuEventSynchronize(slot.event) };
            shared.check(got, "cuEventSynchronize")?;
        }
        let keep = matches!(place, Some(s) if s.pinned.bytes >= bytes);
        if !keep {
            if let Some(old) = place.take() {
                // SAFETY: the event has passed and is not used again.
                unsafe { sys::cuEventDestroy_v2(old.event) };
            }
            let pinned = Pinned::new(&shared.info.name, bytes.max(1 << 20))?;
            *place = Some(Slot {
                pinned,
                event: new_event(shared, false)?,
            });
        }
        debug_assert!(!stream.is_null());
        place
            .as_ref()
            .ok_or_else(|| driver_error("cuMemHostAlloc", "no staging memory".into()))
    }

    fn drop_slots(&mut self) {
        for slot in self.slots.iter_mut().filter_map(Option::take) {
            // SAFETY: callers waited for the stream.
            unsafe { sys::cuEventDestroy_v2(slot.event) };
        }
    }
}

/// An event, with a time if it is to be measured.
pub(super) fn new_event(shared: &Shared, timed: bool) -> Result<sys::CUevent> {
    const DISABLE_TIMING: u32 = 2;
    let mut event = std::ptr::null_mut();
    // SAFETY: fills a handle; the context is current.
    let got = unsafe { sys::cuEventCreate(&mut event, if timed { 0 } else { DISABLE_TIMING }) };
    shared.check(got, "cuEventCreate")?;
    Ok(event)
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        let queue = self.queue.get_mut().unwrap_or_else(|e| e.into_inner());
        // SAFETY: buffers, modules and recordings hold this struct, so only its
        // own objects are left; each is destroyed once, the context last.
        unsafe {
            let _ = sys::cuStreamSynchronize(queue.stream);
            queue.drop_slots();
            sys::cuStreamDestroy_v2(queue.stream);
            sys::cuDevicePrimaryCtxRelease_v2(self.handle);
        }
    }
}

/// One CUDA device, its primary context and one stream.
pub struct CudaDevice {
    shared: Arc<Shared>,
    modules: Mutex<BTreeMap<String, Arc<CudaModule>>>,
}

impl CudaDevice {
    /// Opens the device at `index` of the driver's list.
    pub fn open(index: usize) -> Result<Self> {
        driver::init()?;
        let described = describe(index)?;
        let name = &described.info.name;
        let mut context = std::ptr::null_mut();
        // SAFETY: fills a handle; released when the device is dropped.
        let got = unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, described.handle) };
        check(got, name, "cuDevicePrimaryCtxRetain")?;
        const NON_BLOCKING: u32 = 1;
        let mut stream = std::ptr::null_mut();
        // SAFETY: a retained context; fills a handle.
        let got = unsafe {
            match sys::cuCtxSetCurrent(context) {
                CUresult::CUDA_SUCCESS => sys::cuStreamCreate(&mut stream, NON_BLOCKING),
                e => e,
            }
        };
        if let Err(e) = check(got, name, "cuStreamCreate") {
            // SAFETY: retained above.
            unsafe { sys::cuDevicePrimaryCtxRelease_v2(described.handle) };
            return Err(e);
        }
        Ok(CudaDevice {
            shared: Arc::new(Shared {
                info: described.info,
                limits: described.limits,
                counters: Counters::default(),
                handle: described.handle,
                context,
                queue: Mutex::new(Queue {
                    stream,
                    slots: [None, None],
                    turn: 0,
                }),
                heap: Mutex::new(Heap::default()),
                launches: AtomicU64::new(0),
            }),
            modules: Mutex::new(BTreeMap::new()),
        })
    }

    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Graphs launched so far: one for each run of a recording.
    pub fn launches(&self) -> u64 {
        self.shared.launches.load(Ordering::Relaxed)
    }

    /// The module of that name, compiled at its first use from what `ptx` gives.
    pub fn module(&self, name: &str, ptx: impl FnOnce() -> String) -> Result<Arc<CudaModule>> {
        let mut modules = self.modules.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(module) = modules.get(name) {
            return Ok(module.clone());
        }
        let module = Arc::new(CudaModule::load(&self.shared, name, &ptx())?);
        modules.insert(name.into(), module.clone());
        Ok(module)
    }
}

impl Device for CudaDevice {
    fn info(&self) -> &DeviceInfo {
        &self.shared.info
    }

    fn available_memory(&self) -> u64 {
        self.shared.available()
    }

    fn allocated(&self) -> (u64, u64) {
        (self.shared.counters.now(), self.shared.counters.peak())
    }

    fn alloc(&self, bytes: u64, label: &str) -> Result<Buffer> {
        let shared = &self.shared;
        shared.enter()?;
        let taken = shared.heap().alloc(bytes);
        let taken = taken.map_err(|e| match e {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY | CUresult::CUDA_ERROR_INVALID_VALUE => {
                shared.out_of_memory(bytes, label)
            }
            e => driver_error("cuMemAlloc", format!("{} for {label}", driver::text(e))),
        })?;
        let memory = Memory::new(shared, Place::Device(taken), bytes);
        let queue = shared.queue();
        // SAFETY: the whole of a new range.
        let got =
            unsafe { sys::cuMemsetD8Async(taken.address, 0, taken.size as usize, queue.stream) };
        shared.check(got, "cuMemsetD8Async")?;
        Ok(Buffer::new(API, bytes, Box::new(memory)))
    }

    /// Never: host memory is not imported by this API.
    fn import(&self, _region: &HostRegion) -> Result<Option<Buffer>> {
        Ok(None)
    }

    /// Returns before the copy is over; what follows on the device waits for it.
    fn fill(
        &self,
        dst: &Buffer,
        offset: u64,
        bytes: u64,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<()> {
        let range = dst.check("upload", offset, bytes)?;
        let shared = &self.shared;
        let to = Memory::of(shared, dst)?.address() + range.start;
        if bytes == 0 {
            fill(&mut []);
            return Ok(());
        }
        shared.enter()?;
        let mut queue = shared.queue();
        let stream = queue.stream;
        let slot = queue.slot(shared, bytes as usize)?;
        // SAFETY: the slot has that many bytes, and its last copy is over.
        fill(unsafe { std::slice::from_raw_parts_mut(slot.pinned.at, bytes as usize) });
        // SAFETY: both ranges are checked; the slot is not touched before its
        // event has passed.
        let got = unsafe {
            match sys::cuMemcpyHtoDAsync_v2(to, slot.pinned.at.cast(), bytes as usize, stream) {
                CUresult::CUDA_SUCCESS => sys::cuEventRecord(slot.event, stream),
                e => e,
            }
        };
        shared.check(got, "cuMemcpyHtoDAsync")?;
        if bytes as usize > STAGING {
            shared.wait(&queue, "upload")?;
            queue.drop_slots();
        }
        Ok(())
    }

    fn upload(&self, dst: &Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        dst.check("upload", offset, bytes.len() as u64)?;
        for (i, piece) in bytes.chunks(STAGING).enumerate() {
            let at = offset + (i * STAGING) as u64;
            self.fill(dst, at, piece.len() as u64, &mut |out| {
                out.copy_from_slice(piece)
            })?;
        }
        Ok(())
    }

    fn download(&self, src: &Buffer, offset: u64, out: &mut [u8]) -> Result<()> {
        let range = src.check("download", offset, out.len() as u64)?;
        let shared = &self.shared;
        let from = Memory::of(shared, src)?.address() + range.start;
        shared.enter()?;
        let mut queue = shared.queue();
        for (i, piece) in out.chunks_mut(STAGING).enumerate() {
            let stream = queue.stream;
            let at = queue.slot(shared, piece.len())?.pinned.at;
            let from = from + (i * STAGING) as u64;
            // SAFETY: both ranges are checked; the slot's last copy is over.
            let got = unsafe { sys::cuMemcpyDtoHAsync_v2(at.cast(), from, piece.len(), stream) };
            shared.check(got, "cuMemcpyDtoHAsync")?;
            shared.wait(&queue, "download")?;
            // SAFETY: the copy is over.
            piece.copy_from_slice(unsafe { std::slice::from_raw_parts(at, piece.len()) });
        }
        Ok(())
    }

    fn mailbox(&self, bytes: usize) -> Result<Arc<dyn Mailbox>> {
        Ok(Arc::new(CudaMailbox::new(&self.shared, bytes)?))
    }

    fn recorder(&self, label: &str) -> Result<Box<dyn Recorder>> {
        Ok(Box::new(CudaRecorder::new(label, &self.shared)))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
