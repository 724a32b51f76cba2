//! Device memory in blocks, buffers cut from them, pinned host memory.

use super::API;
use super::device::Shared;
use super::driver::check;
use crate::ranges::Ranges;
use crate::{Buffer, HalError, Mailbox, Result};
use cudarc::driver::sys::{self, CUresult};
use std::any::Any;
use std::sync::Arc;

/// Small buffers share blocks: the driver allocates in steps of 2 MiB.
const BLOCK: u64 = 64 << 20;

/// Start and size of every buffer, so that 16-byte loads at an end stay inside.
const ROUND: u64 = 256;

struct Block {
    base: u64,
    ranges: Ranges,
}

#[derive(Default)]
pub(super) struct Heap {
    blocks: Vec<Option<Block>>,
}

/// A range of device memory. Freed by [`Heap::free`], not on drop.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    pub address: u64,
    pub size: u64,
    block: usize,
}

impl Heap {
    /// At least `bytes` bytes. The context must be current.
    pub fn alloc(&mut self, bytes: u64) -> Result<Taken, CUresult> {
        let size = bytes.max(1).checked_next_multiple_of(ROUND);
        let size = size.ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        let whole = size >= BLOCK / 4;
        if !whole {
            for (i, slot) in self.blocks.iter_mut().enumerate() {
                if let Some(block) = slot
                    && let Some(at) = block.ranges.take(size, ROUND)
                {
                    return Ok(Taken {
                        address: block.base + at,
                        size,
                        block: i,
                    });
                }
            }
        }
        let (base, length) = match whole {
            true => (raw_alloc(size)?, size),
            false => match raw_alloc(BLOCK) {
                Ok(base) => (base, BLOCK),
                Err(_) => (raw_alloc(size)?, size),
            },
        };
        let mut ranges = Ranges::new(length);
        let at = ranges.take(size, ROUND).unwrap_or(0);
        let block = Some(Block { base, ranges });
        let i = match self.blocks.iter().position(Option::is_none) {
            Some(i) => {
                self.blocks[i] = block;
                i
            }
            None => {
                self.blocks.push(block);
                self.blocks.len() - 1
            }
        };
        Ok(Taken {
            address: base + at,
            size,
            block: i,
        })
    }

    /// The context must be current.
    pub fn free(&mut self, taken: &Taken) {
        let slot = &mut self.blocks[taken.block];
        let Some(block) = slot else { return };
        block.ranges.give(taken.address - block.base, taken.size);
        if block.ranges.is_empty() {
            // SAFETY: no buffer lies in the block any more; the driver waits for
            // what still runs.
            unsafe { sys::cuMemFree_v2(block.base) };
            *slot = None;
        }
    }
}

fn raw_alloc(bytes: u64) -> Result<u64, CUresult> {
    let mut at = 0;
    let bytes = usize::try_from(bytes).map_err(|_| CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
    // SAFETY: fills an address; a context is current.
    match unsafe { sys::cuMemAlloc_v2(&mut at, bytes) } {
        CUresult::CUDA_SUCCESS => Ok(at),
        e => Err(e),
    }
}

/// Page-locked host memory, freed on drop. The context must be current then.
pub(super) struct Pinned {
    pub at: *mut u8,
    pub bytes: usize,
}

// SAFETY: plain bytes; who touches them when is decided by the queue's lock.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Zeroed.
    pub fn new(device: &str, bytes: usize) -> Result<Self> {
        let mut at = std::ptr::null_mut();
        // SAFETY: fills a pointer; a context is current.
        let got = unsafe { sys::cuMemHostAlloc(&mut at, bytes.max(1), 0) };
        check(got, device, "cuMemHostAlloc")?;
        let at = at.cast::<u8>();
        // SAFETY: new memory of that size.
        unsafe { std::ptr::write_bytes(at, 0, bytes) };
        Ok(Pinned { at, bytes })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`, and nothing uses it any more.
        unsafe { sys::cuMemFreeHost(self.at.cast()) };
    }
}

pub(super) enum Place {
    Device(Taken),
    Host(Pinned),
}

/// What a [`Buffer`] of this API holds.
pub(super) struct Memory {
    shared: Arc<Shared>,
    place: Option<Place>,
    bytes: u64,
}

impl Memory {
    pub fn new(shared: &Arc<Shared>, place: Place, bytes: u64) -> Self {
        shared.counters.add(bytes);
        Memory {
            shared: shared.clone(),
            place: Some(place),
            bytes,
        }
    }

    /// The memory behind a buffer of this very device.
    pub fn of<'a>(shared: &Arc<Shared>, buffer: &'a Buffer) -> Result<&'a Memory> {
        let memory: &Memory = buffer.memory(API)?;
        match Arc::ptr_eq(&memory.shared, shared) {
            true => Ok(memory),
            false => Err(HalError::WrongDevice {
                wanted: API,
                found: "cuda (another device's)",
            }),
        }
    }

    /// Address in the space that host and device share.
    pub fn address(&self) -> u64 {
        match &self.place {
            Some(Place::Device(taken)) => taken.address,
            Some(Place::Host(pinned)) => pinned.at as u64,
            None => 0,
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // A context that cannot be entered is gone, and its memory with it.
        let entered = self.shared.enter().is_ok();
        match self.place.take() {
            Some(Place::Device(taken)) if entered => self.shared.heap().free(&taken),
            Some(Place::Host(pinned)) if !entered => std::mem::forget(pinned),
            _ => {}
        }
        self.shared.counters.sub(self.bytes);
    }
}

/// Pinned memory; a [`Buffer`] inside, so that copies from and to it are tracked
/// like all others.
pub(super) struct CudaMailbox {
    shared: Arc<Shared>,
    pub buffer: Buffer,
}

impl CudaMailbox {
    pub fn new(shared: &Arc<Shared>, bytes: usize) -> Result<Self> {
        shared.enter()?;
        let pinned = Pinned::new(&shared.info.name, bytes)?;
        let memory = Memory::new(shared, Place::Host(pinned), bytes as u64);
        Ok(CudaMailbox {
            shared: shared.clone(),
            buffer: Buffer::new(API, bytes as u64, Box::new(memory)),
        })
    }

    pub fn of(mailbox: &Arc<dyn Mailbox>) -> Result<&CudaMailbox> {
        mailbox
            .as_any()
            .downcast_ref()
            .ok_or(HalError::WrongDevice {
                wanted: API,
                found: "other",
            })
    }

    fn address(&self, what: &'static str, offset: usize, bytes: usize) -> Result<*mut u8> {
        let range = self.buffer.check(what, offset as u64, bytes as u64)?;
        let base = Memory::of(&self.shared, &self.buffer)?.address();
        Ok((base + range.start) as *mut u8)
    }
}

impl Mailbox for CudaMailbox {
    fn len(&self) -> usize {
        self.buffer.len() as usize
    }

    fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        let to = self.address("mailbox write", offset, bytes.len())?;
        let _idle = self.shared.queue();
        // SAFETY: in bounds, and no recording runs while the queue is held.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    fn read(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        let from = self.address("mailbox read", offset, out.len())?;
        let _idle = self.shared.queue();
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len()) };
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
