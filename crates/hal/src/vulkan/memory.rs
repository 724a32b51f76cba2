//! Device memory in blocks, buffers cut from them, and mailboxes.

use super::device::Shared;
use super::{API, check};
use crate::ranges::Ranges;
use crate::{Buffer, HalError, Mailbox, Result};
use ash::vk;
use std::any::Any;
use std::sync::Arc;

/// Drivers allow few allocations (4096), so small buffers share blocks.
const BLOCK: u64 = 64 << 20;

/// Whole `uvec4` loads at the end of a buffer stay inside it.
const ROUND: u64 = 16;

const USAGE: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::STORAGE_BUFFER.as_raw()
        | vk::BufferUsageFlags::TRANSFER_SRC.as_raw()
        | vk::BufferUsageFlags::TRANSFER_DST.as_raw(),
);

struct Block {
    memory: vk::DeviceMemory,
    memory_type: u32,
    ranges: Ranges,
    /// Address of the block where the host may see it.
    mapped: Option<usize>,
}

#[derive(Default)]
pub(super) struct Heap {
    blocks: Vec<Option<Block>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Device-local; mapped if the host shares that memory.
    Device,
    /// Host memory that the device can copy from and to.
    Host,
}

/// A `VkBuffer` with its memory. Freed by [`Heap::free`], not on drop.
#[derive(Clone, Copy)]
pub(super) struct RawBuffer {
    pub handle: vk::Buffer,
    pub size: u64,
    block: usize,
    offset: u64,
    taken: u64,
    mapped: Option<usize>,
}

impl RawBuffer {
    /// Host address of the buffer's first byte.
    pub fn mapped(&self) -> Option<*mut u8> {
        self.mapped.map(|p| p as *mut u8)
    }
}

impl Heap {
    /// A buffer of at least `bytes` bytes, or the driver's status.
    pub fn alloc(
        &mut self,
        shared: &Shared,
        bytes: u64,
        place: Place,
    ) -> Result<RawBuffer, vk::Result> {
        let raw = &shared.raw;
        let too_big = vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
        let size = bytes
            .max(1)
            .checked_next_multiple_of(ROUND)
            .filter(|&s| s <= shared.physical.limits.allocation)
            .ok_or(too_big)?;
        let info = vk::BufferCreateInfo::default()
            .size(size)
            .usage(USAGE)
            .sharing_mode(vk::SharingMode::EXCLUSIVE);
        // SAFETY: the device is alive and the create info valid.
        let handle = unsafe { raw.create_buffer(&info, None) }?;
        let placed = self.place(shared, handle, place).and_then(|buffer| {
            let memory = self.blocks[buffer.block].as_ref().map(|b| b.memory);
            // SAFETY: the buffer is new, and the range lies in the block and has
            // the alignment that its requirements state.
            unsafe { raw.bind_buffer_memory(handle, memory.unwrap_or_default(), buffer.offset) }
                .inspect_err(|_| self.release(shared, &buffer))
                .map(|()| RawBuffer { size, ..buffer })
        });
        placed.inspect_err(|_| {
            // SAFETY: never used by the device.
            unsafe { raw.destroy_buffer(handle, None) }
        })
    }

    fn place(
        &mut self,
        shared: &Shared,
        handle: vk::Buffer,
        place: Place,
    ) -> Result<RawBuffer, vk::Result> {
        use vk::MemoryPropertyFlags as Flags;
        // SAFETY: a plain query of a live buffer.
        let req = unsafe { shared.raw.get_buffer_memory_requirements(handle) };
        let visible = Flags::HOST_VISIBLE | Flags::HOST_COHERENT;
        let (need, like) = match place {
            Place::Host => (visible, Flags::HOST_CACHED),
            Place::Device if shared.direct => (Flags::DEVICE_LOCAL, visible),
            Place::Device => (Flags::DEVICE_LOCAL, Flags::empty()),
        };
        let memory_type = shared
            .physical
            .memory_type(req.memory_type_bits, need, like)
            .ok_or(vk::Result::ERROR_OUT_OF_DEVICE_MEMORY)?;
        let alignment = req.alignment.max(256);
        let found = |block: usize, offset, mapped: Option<usize>| RawBuffer {
            handle,
            size: 0,
            block,
            offset,
            taken: req.size,
            mapped: mapped.map(|p| p + offset as usize),
        };
        let whole = req.size >= BLOCK / 4;
        if !whole {
            for (i, block) in self.blocks.iter_mut().enumerate() {
                if let Some(b) = block
                    && b.memory_type == memory_type
                    && let Some(offset) = b.ranges.take(req.size, alignment)
                {
                    return Ok(found(i, offset, b.mapped));
                }
            }
        }
        let block = if whole {
            self.new_block(shared, memory_type, req.size)?
        } else {
            self.new_block(shared, memory_type, BLOCK)
                .or_else(|_| self.new_block(shared, memory_type, req.size))?
        };
        let b = self.blocks[block]
            .as_mut()
            .ok_or(vk::Result::ERROR_UNKNOWN)?;
        let offset = b.ranges.take(req.size, alignment).unwrap_or(0);
        Ok(found(block, offset, b.mapped))
    }

    fn new_block(
        &mut self,
        shared: &Shared,
        memory_type: u32,
        size: u64,
    ) -> Result<usize, vk::Result> {
        use vk::MemoryPropertyFlags as Flags;
        let raw = &shared.raw;
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(size)
            .memory_type_index(memory_type);
        // SAFETY: the memory type exists; the device is alive.
        let memory = unsafe { raw.allocate_memory(&info, None) }?;
        let visible = Flags::HOST_VISIBLE | Flags::HOST_COHERENT;
        let mapped = if shared.physical.flags(memory_type).contains(visible) {
            let flags = vk::MemoryMapFlags::empty();
            // SAFETY: host-visible memory, mapped once and for its whole life.
            match unsafe { raw.map_memory(memory, 0, vk::WHOLE_SIZE, flags) } {
                Ok(p) => Some(p as usize),
                Err(e) => {
                    // SAFETY: nothing is bound to it yet.
                    unsafe { raw.free_memory(memory, None) };
                    return Err(e);
                }
            }
        } else {
            None
        };
        let block = Some(Block {
            memory,
            memory_type,
            ranges: Ranges::new(size),
            mapped,
        });
        match self.blocks.iter().position(Option::is_none) {
            Some(i) => {
                self.blocks[i] = block;
                Ok(i)
            }
            None => {
                self.blocks.push(block);
                Ok(self.blocks.len() - 1)
            }
        }
    }

    fn release(&mut self, shared: &Shared, buffer: &RawBuffer) {
        let slot = &mut self.blocks[buffer.block];
        let Some(block) = slot else { return };
        block.ranges.give(buffer.offset, buffer.taken);
        if block.ranges.is_empty() {
            // SAFETY: no buffer is bound to the block any more; freeing unmaps.
            unsafe { shared.raw.free_memory(block.memory, None) };
            *slot = None;
        }
    }

    pub fn free(&mut self, shared: &Shared, buffer: &RawBuffer) {
        // SAFETY: its owner is being dropped, recordings that used it are gone,
        // and runs are waited for.
        unsafe { shared.raw.destroy_buffer(buffer.handle, None) };
        self.release(shared, buffer);
    }
}

/// What a [`Buffer`] of this API holds.
pub(super) struct Memory {
    pub shared: Arc<Shared>,
    pub raw: RawBuffer,
    bytes: u64,
}

impl Memory {
    pub fn new(shared: &Arc<Shared>, raw: RawBuffer, bytes: u64) -> Self {
        shared.counters.add(bytes);
        Memory {
            shared: shared.clone(),
            raw,
            bytes,
        }
    }

    /// The memory behind a buffer of this very device.
    pub fn of<'a>(shared: &Arc<Shared>, buffer: &'a Buffer) -> Result<&'a Memory> {
        let memory: &Memory = buffer.memory(API)?;
        if Arc::ptr_eq(&memory.shared, shared) {
            Ok(memory)
        } else {
            Err(HalError::WrongDevice {
                wanted: API,
                found: "vulkan (another device's)",
            })
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.shared.heap().free(&self.shared, &self.raw);
        self.shared.counters.sub(self.bytes);
    }
}

/// Host-visible memory, mapped for its whole life. A [`Buffer`] inside, so that
/// copies from and to it are tracked like all others.
pub(super) struct VulkanMailbox {
    shared: Arc<Shared>,
    pub buffer: Buffer,
}

impl VulkanMailbox {
    pub fn new(shared: &Arc<Shared>, bytes: usize) -> Result<Self> {
        let raw = shared
            .heap()
            .alloc(shared, bytes as u64, Place::Host)
            .map_err(|e| shared.out_of_memory(e, bytes as u64, "mailbox"))?;
        let memory = Memory::new(shared, raw, bytes as u64);
        let mailbox = VulkanMailbox {
            shared: shared.clone(),
            buffer: Buffer::new(API, bytes as u64, Box::new(memory)),
        };
        mailbox.write(0, &vec![0; bytes])?;
        Ok(mailbox)
    }

    pub fn of(mailbox: &Arc<dyn Mailbox>) -> Result<&VulkanMailbox> {
        mailbox
            .as_any()
            .downcast_ref()
            .ok_or(HalError::WrongDevice {
                wanted: API,
                found: "other",
            })
    }

    fn address(&self, what: &'static str, offset: usize, bytes: usize) -> Result<*mut u8> {
        self.buffer.check(what, offset as u64, bytes as u64)?;
        let memory = Memory::of(&self.shared, &self.buffer)?;
        let base = check(
            memory
                .raw
                .mapped()
                .ok_or(vk::Result::ERROR_MEMORY_MAP_FAILED),
            &self.shared.physical.info.name,
            "vkMapMemory",
        )?;
        // SAFETY: inside the buffer, as just checked.
        Ok(unsafe { base.add(offset) })
    }
}

impl Mailbox for VulkanMailbox {
    fn len(&self) -> usize {
        self.buffer.len() as usize
    }

    fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        let to = self.address("mailbox write", offset, bytes.len())?;
        let _idle = self.shared.queue();
        // SAFETY: in bounds, and nothing runs while the queue is held.
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
