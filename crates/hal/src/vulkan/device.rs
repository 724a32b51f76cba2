//! An opened device: its queue, memory, transfers.

use super::coopmat::{Bfloat16Features, Matrix2Features};
use super::instance::{Instance, ValidationLog};
use super::memory::{Heap, Memory, Place, RawBuffer, VulkanMailbox};
use super::options::VulkanOptions;
use super::physical::{Limits, Physical};
use super::pipeline::{PipelineDesc, Pipelines, VulkanPipeline};
use super::pipeline_cache::PipelineCache;
use super::record::VulkanRecorder;
use super::{API, check};
use crate::cpu::Counters;
use crate::{Buffer, Device, DeviceInfo, DeviceKind, HalError, HostRegion, Mailbox, Recorder};
use crate::{Result, cpu};
use ash::vk;
use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Largest piece moved through staging memory at once, except by
/// [`Device::fill`], whose callers choose the piece.
const STAGING: u64 = 32 << 20;

/// Devices that meet the demands, best first: discrete, integrated, software,
/// each by memory. `index` is the position in the driver's own order.
///
/// # Errors
/// No loader, no driver, or devices of which none meets the demands; the message
/// names what they lack.
pub fn probe() -> Result<Vec<DeviceInfo>> {
    let instance = Instance::create(false)?;
    let mut usable = Vec::new();
    let mut refused = Vec::new();
    for (i, handle) in instance.physical_devices()?.into_iter().enumerate() {
        let p = Physical::query(&instance, handle, i);
        if p.missing.is_empty() {
            usable.push(p.info);
        } else {
            refused.push(lacks(&p));
        }
    }
    if usable.is_empty() && !refused.is_empty() {
        return Err(HalError::NoDevice {
            api: API,
            reason: refused.join("; "),
        });
    }
    usable.sort_by_key(|d| (d.kind, std::cmp::Reverse(d.memory_total), d.index));
    Ok(usable)
}

fn lacks(p: &Physical) -> String {
    format!(
        "{} lacks {}: update its driver",
        p.info.name,
        p.missing.join(", ")
    )
}

/// Work in flight at most one submission at a time; whoever holds this holds an
/// idle device.
pub(super) struct Queue {
    handle: vk::Queue,
    /// Value of the timeline after the last submission.
    value: u64,
    transfer_pool: vk::CommandPool,
    transfer: vk::CommandBuffer,
    staging: Option<RawBuffer>,
}

pub(super) struct Shared {
    pub raw: ash::Device,
    pub debug: Option<ash::ext::debug_utils::Device>,
    pub physical: Physical,
    /// Device memory is written by the host in place where it is mapped.
    pub direct: bool,
    pub counters: Counters,
    pub pipelines: Mutex<Pipelines>,
    queue: Mutex<Queue>,
    heap: Mutex<Heap>,
    timeline: vk::Semaphore,
    submits: AtomicU64,
    /// Last: the instance must outlive the device.
    instance: Instance,
}

impl Shared {
    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn heap(&self) -> MutexGuard<'_, Heap> {
        self.heap.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn check<T>(&self, r: ash::prelude::VkResult<T>, call: &'static str) -> Result<T> {
        check(r, &self.physical.info.name, call)
    }

    pub fn out_of_memory(&self, e: vk::Result, bytes: u64, label: &str) -> HalError {
        match e {
            vk::Result::ERROR_OUT_OF_DEVICE_MEMORY | vk::Result::ERROR_OUT_OF_HOST_MEMORY => {
                HalError::OutOfMemory {
                    device: self.physical.info.name.clone(),
                    label: label.into(),
                    bytes,
                    available: self.available().to_string(),
                }
            }
            e => HalError::Driver {
                api: API,
                call: "vkAllocateMemory",
                reason: format!("{e:?} for {label} ({bytes} bytes)"),
            },
        }
    }

    fn available(&self) -> u64 {
        let heap = self.physical.local_heap();
        let size = self.physical.memory.memory_heaps[heap].size;
        let mut left = size.saturating_sub(self.counters.now());
        if self.physical.memory_budget {
            let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
            let mut props = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
            // SAFETY: the device offers the extension that fills the chain.
            unsafe {
                self.instance
                    .raw
                    .get_physical_device_memory_properties2(self.physical.handle, &mut props);
            }
            let (total, used) = (budget.heap_budget[heap], budget.heap_usage[heap]);
            if total > 0 {
                left = left.min(total.saturating_sub(used));
            }
        }
        if self.physical.info.kind != DeviceKind::Discrete {
            left = left.min(cpu::available_memory());
        }
        left
    }

    /// Submits one command buffer by one `vkQueueSubmit2` and waits for it.
    pub fn submit(&self, queue: &mut Queue, cmd: vk::CommandBuffer, what: &str) -> Result<()> {
        let stage = vk::PipelineStageFlags2::ALL_COMMANDS;
        let semaphore = |value| {
            [vk::SemaphoreSubmitInfo::default()
                .semaphore(self.timeline)
                .value(value)
                .stage_mask(stage)]
        };
        // Waiting for the last submission, which is over, makes its writes
        // visible to this one.
        let (waits, signals) = (semaphore(queue.value), semaphore(queue.value + 1));
        let cmds = [vk::CommandBufferSubmitInfo::default().command_buffer(cmd)];
        let info = vk::SubmitInfo2::default()
            .wait_semaphore_infos(&waits)
            .command_buffer_infos(&cmds)
            .signal_semaphore_infos(&signals);
        self.submits.fetch_add(1, Ordering::Relaxed);
        let values = [queue.value + 1];
        let semaphores = [self.timeline];
        let wait = vk::SemaphoreWaitInfo::default()
            .semaphores(&semaphores)
            .values(&values);
        // SAFETY: the queue is held, so access to it is exclusive; the command
        // buffer is executable and not pending, because every submission is
        // waited for here.
        let result = unsafe {
            self.raw
                .queue_submit2(queue.handle, &[info], vk::Fence::null())
                .and_then(|()| self.raw.wait_semaphores(&wait, u64::MAX))
        };
        if result == Err(vk::Result::ERROR_DEVICE_LOST) {
            return Err(HalError::DeviceLost {
                device: self.physical.info.name.clone(),
                what: what.into(),
            });
        }
        self.check(result, "vkQueueSubmit2")?;
        queue.value += 1;
        Ok(())
    }

    /// Records and runs a transfer.
    fn transfer(
        &self,
        queue: &mut Queue,
        what: &str,
        record: impl FnOnce(vk::CommandBuffer),
    ) -> Result<()> {
        let begin = vk::CommandBufferBeginInfo::default()
            .flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
        let cmd = queue.transfer;
        // SAFETY: the queue is held and idle, so nothing uses the pool.
        let begun = unsafe {
            self.raw
                .reset_command_pool(queue.transfer_pool, vk::CommandPoolResetFlags::empty())
                .and_then(|()| self.raw.begin_command_buffer(cmd, &begin))
        };
        self.check(begun, "vkBeginCommandBuffer")?;
        record(cmd);
        super::record::host_barrier(&self.raw, cmd);
        // SAFETY: the command buffer is being recorded.
        let ended = unsafe { self.raw.end_command_buffer(cmd) };
        self.check(ended, "vkEndCommandBuffer")?;
        self.submit(queue, cmd, what)
    }

    fn copy(
        &self,
        queue: &mut Queue,
        what: &str,
        (src, src_offset): (vk::Buffer, u64),
        (dst, dst_offset): (vk::Buffer, u64),
        size: u64,
    ) -> Result<()> {
        let region = vk::BufferCopy {
            src_offset,
            dst_offset,
            size,
        };
        self.transfer(queue, what, |cmd| {
            // SAFETY: callers checked both ranges; the command buffer is being
            // recorded.
            unsafe { self.raw.cmd_copy_buffer(cmd, src, dst, &[region]) }
        })
    }

    /// Staging memory of at least `bytes`, kept for the next time.
    fn staging(&self, queue: &mut Queue, bytes: u64) -> Result<(vk::Buffer, *mut u8)> {
        if queue.staging.is_none_or(|s| s.size < bytes) {
            let size = bytes.max(1 << 20);
            let mut heap = self.heap();
            if let Some(old) = queue.staging.take() {
                heap.free(self, &old);
            }
            let new = heap.alloc(self, size, Place::Host);
            drop(heap);
            queue.staging = Some(new.map_err(|e| self.out_of_memory(e, size, "staging"))?);
        }
        let mapped = queue.staging.and_then(|s| Some((s.handle, s.mapped()?)));
        self.check(
            mapped.ok_or(vk::Result::ERROR_MEMORY_MAP_FAILED),
            "vkMapMemory",
        )
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let staging = self.queue().staging.take();
        if let Some(staging) = staging {
            self.heap().free(self, &staging);
        }
        let pool = self.queue().transfer_pool;
        let mut pipelines = self.pipelines.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: buffers, recordings and pipelines hold this struct, so only its
        // own objects are left; each is destroyed once, the device last.
        unsafe {
            let _ = self.raw.device_wait_idle();
            pipelines.destroy(&self.raw);
            self.raw.destroy_command_pool(pool, None);
            self.raw.destroy_semaphore(self.timeline, None);
            self.raw.destroy_device(None);
        }
    }
}

/// One Vulkan device and one of its compute queues.
pub struct VulkanDevice {
    shared: Arc<Shared>,
}

impl VulkanDevice {
    /// Opens the device at `index` of the driver's list.
    pub fn open(index: usize, options: &VulkanOptions) -> Result<Self> {
        let none = |reason: String| HalError::NoDevice { api: API, reason };
        let instance = Instance::create(options.validation)?;
        let handles = instance.physical_devices()?;
        let handle = *handles.get(index).ok_or_else(|| {
            none(format!(
                "device {index} was asked for, the driver lists {}",
                handles.len()
            ))
        })?;
        let mut physical = Physical::query(&instance, handle, index);
        if let Some(lanes) = options.reduce_lanes {
            physical.limits.reduce_lanes = lanes;
        }
        if let Some(range) = options.matrix_range {
            physical.limits.matrix_range = physical.limits.storage_range.min(range);
        }
        physical.limits.coopmat_tile = options.coopmat_tile;
        physical.limits.gemv = options.gemv;
        if !physical.missing.is_empty() {
            return Err(none(lacks(&physical)));
        }
        let name = physical.info.name.clone();

        let priorities = [1.0];
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(physical.queue_family)
            .queue_priorities(&priorities)];
        let mut f11 =
            vk::PhysicalDeviceVulkan11Features::default().storage_buffer16_bit_access(true);
        let mut f12 = vk::PhysicalDeviceVulkan12Features::default()
            .timeline_semaphore(true)
            .scalar_block_layout(true)
            .shader_float16(physical.limits.coopmat.f16.is_some())
            .vulkan_memory_model(physical.limits.coopmat.any());
        let mut f13 = vk::PhysicalDeviceVulkan13Features::default()
            .synchronization2(true)
            // SPIR-V 1.6 states a workgroup's size by constants.
            .maintenance4(true)
            .shader_integer_dot_product(physical.info.features.contains("integer_dot"))
            .subgroup_size_control(physical.choose_subgroup)
            .compute_full_subgroups(physical.limits.whole_subgroups);
        let coopmat = physical.limits.coopmat;
        let mut extensions: Vec<_> = coopmat.extensions().iter().map(|e| e.as_ptr()).collect();
        let mut matrices = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default();
        let mut brain = Bfloat16Features::default();
        let mut matrices2 = Matrix2Features::default();
        if physical.memory_budget {
            extensions.push(ash::ext::memory_budget::NAME.as_ptr());
        }
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions)
            .push_next(&mut f11)
            .push_next(&mut f12)
            .push_next(&mut f13);
        let info = coopmat.enable(info, &mut matrices, &mut brain, &mut matrices2);
        // SAFETY: everything asked for was found by the query above, and all
        // pointers outlive the call.
        let raw = unsafe { instance.raw.create_device(handle, &info, None) };
        let raw = check(raw, &name, "vkCreateDevice")?;
        let objects = QueueObjects::create(&raw, physical.queue_family);
        let objects = match check(objects, &name, "vkCreateSemaphore") {
            Ok(o) => o,
            Err(e) => {
                // SAFETY: the device has no objects.
                unsafe { raw.destroy_device(None) };
                return Err(e);
            }
        };
        let cache = PipelineCache::open(&raw, &physical, options.pipeline_cache.as_deref());
        let debug = options
            .validation
            .then(|| ash::ext::debug_utils::Device::new(&instance.raw, &raw));
        Ok(VulkanDevice {
            shared: Arc::new(Shared {
                debug,
                direct: physical.info.kind != DeviceKind::Discrete && !options.staging,
                counters: Counters::default(),
                pipelines: Mutex::new(Pipelines::new(cache)),
                queue: Mutex::new(Queue {
                    handle: objects.queue,
                    value: 0,
                    transfer_pool: objects.pool,
                    transfer: objects.cmd,
                    staging: None,
                }),
                heap: Mutex::default(),
                timeline: objects.timeline,
                submits: AtomicU64::new(0),
                physical,
                raw,
                instance,
            }),
        })
    }

    pub fn limits(&self) -> &Limits {
        &self.shared.physical.limits
    }

    /// Command buffers submitted so far, transfers included.
    pub fn submits(&self) -> u64 {
        self.shared.submits.load(Ordering::Relaxed)
    }

    /// Why the compiled pipelines of an earlier process were not used; `None` if they
    /// were, or if there are none.
    pub fn pipeline_cache_notice(&self) -> Option<String> {
        let pipelines = &self.shared.pipelines;
        pipelines.lock().unwrap_or_else(|e| e.into_inner()).notice()
    }

    /// What the validation layer says; `None` if it does not run.
    pub fn validation(&self) -> Option<Arc<ValidationLog>> {
        self.shared.instance.log.clone()
    }

    /// Messages of the validation layer so far.
    pub fn validation_messages(&self) -> Vec<String> {
        self.validation()
            .map_or_else(Vec::new, |log| log.messages())
    }

    /// The pipeline of a shader with its specialization constants; made once and
    /// kept as long as the device.
    pub fn pipeline(&self, desc: &PipelineDesc) -> Result<Arc<VulkanPipeline>> {
        VulkanPipeline::get(&self.shared, desc)
    }
}

struct QueueObjects {
    queue: vk::Queue,
    pool: vk::CommandPool,
    cmd: vk::CommandBuffer,
    timeline: vk::Semaphore,
}

impl QueueObjects {
    fn create(raw: &ash::Device, family: u32) -> ash::prelude::VkResult<Self> {
        let pool_info = vk::CommandPoolCreateInfo::default()
            .flags(vk::CommandPoolCreateFlags::TRANSIENT)
            .queue_family_index(family);
        let mut kind = vk::SemaphoreTypeCreateInfo::default()
            .semaphore_type(vk::SemaphoreType::TIMELINE)
            .initial_value(0);
        let semaphore_info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: a new device with one queue of that family; on failure what was
        // made before is destroyed.
        unsafe {
            let timeline = raw.create_semaphore(&semaphore_info, None)?;
            let pool = raw
                .create_command_pool(&pool_info, None)
                .inspect_err(|_| raw.destroy_semaphore(timeline, None))?;
            let cmd_info = vk::CommandBufferAllocateInfo::default()
                .command_pool(pool)
                .level(vk::CommandBufferLevel::PRIMARY)
                .command_buffer_count(1);
            let cmds = raw.allocate_command_buffers(&cmd_info).inspect_err(|_| {
                raw.destroy_command_pool(pool, None);
                raw.destroy_semaphore(timeline, None);
            })?;
            Ok(QueueObjects {
                queue: raw.get_device_queue(family, 0),
                pool,
                cmd: cmds[0],
                timeline,
            })
        }
    }
}

impl Device for VulkanDevice {
    fn info(&self) -> &DeviceInfo {
        &self.shared.physical.info
    }

    fn available_memory(&self) -> u64 {
        self.shared.available()
    }

    fn allocated(&self) -> (u64, u64) {
        (self.shared.counters.now(), self.shared.counters.peak())
    }

    fn alloc(&self, bytes: u64, label: &str) -> Result<Buffer> {
        let shared = &self.shared;
        let full = || shared.out_of_memory(vk::Result::ERROR_OUT_OF_DEVICE_MEMORY, bytes, label);
        let heap = &shared.physical.memory.memory_heaps[shared.physical.local_heap()];
        // Some drivers only find out when the memory is touched.
        if bytes > heap.size.saturating_sub(shared.counters.now()) {
            return Err(full());
        }
        let raw = shared
            .heap()
            .alloc(shared, bytes, Place::Device)
            .map_err(|e| shared.out_of_memory(e, bytes, label))?;
        let memory = Memory::new(shared, raw, bytes);
        shared.transfer(&mut shared.queue(), "vkCmdFillBuffer", |cmd| {
            // SAFETY: a whole new buffer, its size a multiple of four.
            unsafe {
                shared
                    .raw
                    .cmd_fill_buffer(cmd, raw.handle, 0, vk::WHOLE_SIZE, 0);
            }
        })?;
        Ok(Buffer::new(API, bytes, Box::new(memory)))
    }

    /// Never: host memory is not imported by this API yet.
    fn import(&self, _region: &HostRegion) -> Result<Option<Buffer>> {
        Ok(None)
    }

    fn fill(
        &self,
        dst: &Buffer,
        offset: u64,
        bytes: u64,
        fill: &mut dyn FnMut(&mut [u8]),
    ) -> Result<()> {
        dst.check("upload", offset, bytes)?;
        let memory = Memory::of(&self.shared, dst)?;
        if bytes == 0 {
            fill(&mut []);
            return Ok(());
        }
        let queue = &mut self.shared.queue();
        if self.shared.direct
            && let Some(base) = memory.raw.mapped()
        {
            // SAFETY: in bounds, mapped, and the device is idle while the queue
            // is held.
            fill(unsafe {
                std::slice::from_raw_parts_mut(base.add(offset as usize), bytes as usize)
            });
            return Ok(());
        }
        let (staging, at) = self.shared.staging(queue, bytes)?;
        // SAFETY: the staging memory has that many bytes and the device is idle.
        fill(unsafe { std::slice::from_raw_parts_mut(at, bytes as usize) });
        let to = (memory.raw.handle, offset);
        self.shared.copy(queue, "upload", (staging, 0), to, bytes)?;
        if bytes > STAGING
            && let Some(big) = queue.staging.take()
        {
            self.shared.heap().free(&self.shared, &big);
        }
        Ok(())
    }

    fn upload(&self, dst: &Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        dst.check("upload", offset, bytes.len() as u64)?;
        for (i, piece) in bytes.chunks(STAGING as usize).enumerate() {
            let at = offset + i as u64 * STAGING;
            self.fill(dst, at, piece.len() as u64, &mut |out| {
                out.copy_from_slice(piece)
            })?;
        }
        Ok(())
    }

    fn download(&self, src: &Buffer, offset: u64, out: &mut [u8]) -> Result<()> {
        src.check("download", offset, out.len() as u64)?;
        let memory = Memory::of(&self.shared, src)?;
        let queue = &mut self.shared.queue();
        if self.shared.direct
            && let Some(base) = memory.raw.mapped()
        {
            // SAFETY: in bounds, mapped, and the device is idle while the queue
            // is held.
            out.copy_from_slice(unsafe {
                std::slice::from_raw_parts(base.add(offset as usize), out.len())
            });
            return Ok(());
        }
        for (i, piece) in out.chunks_mut(STAGING as usize).enumerate() {
            let len = piece.len() as u64;
            let (staging, from) = self.shared.staging(queue, len)?;
            let src = (memory.raw.handle, offset + i as u64 * STAGING);
            self.shared
                .copy(queue, "download", src, (staging, 0), len)?;
            // SAFETY: the staging memory has that many bytes and the copy is over.
            piece.copy_from_slice(unsafe { std::slice::from_raw_parts(from, piece.len()) });
        }
        Ok(())
    }

    fn mailbox(&self, bytes: usize) -> Result<Arc<dyn Mailbox>> {
        Ok(Arc::new(VulkanMailbox::new(&self.shared, bytes)?))
    }

    fn recorder(&self, label: &str) -> Result<Box<dyn Recorder>> {
        Ok(Box::new(VulkanRecorder::new(label, &self.shared)))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
