//! Recordings: one reusable command buffer, submitted once for each run.

use super::API;
use super::device::Shared;
use super::memory::{Memory, VulkanMailbox};
use super::pipeline::VulkanPipeline;
use crate::{Access, Buffer, HalError, HazardTracker, Mailbox, Recorder, Recording};
use crate::{RecordingStats, Result, StepTime};
use ash::vk;
use std::any::Any;
use std::sync::{Arc, Mutex};

/// A storage buffer as a shader sees it.
#[derive(Clone, Copy, Debug)]
pub struct StorageBind<'a> {
    pub buffer: &'a Buffer,
    /// Bytes; a multiple of [`super::Limits::storage_alignment`].
    pub offset: u64,
    /// Bytes from `offset` that the shader may touch, rounded up to 16 where the
    /// buffer's memory allows, so that whole vectors can be loaded at its end.
    pub bytes: u64,
}

enum Command {
    Copy {
        src: vk::Buffer,
        dst: vk::Buffer,
        region: vk::BufferCopy,
    },
    Dispatch {
        pipeline: Arc<VulkanPipeline>,
        binds: Vec<vk::DescriptorBufferInfo>,
        push: Vec<u32>,
        groups: [u32; 3],
    },
}

struct Step {
    label: String,
    barrier_before: bool,
    command: Command,
}

/// Collects commands. Kernel trees reach it by
/// `recorder.as_any_mut().downcast_mut::<VulkanRecorder>()`.
pub struct VulkanRecorder {
    label: String,
    shared: Arc<Shared>,
    tracker: HazardTracker,
    steps: Vec<Step>,
    keep: Vec<Buffer>,
}

impl VulkanRecorder {
    pub(super) fn new(label: &str, shared: &Arc<Shared>) -> Self {
        VulkanRecorder {
            label: label.into(),
            shared: shared.clone(),
            tracker: HazardTracker::default(),
            steps: Vec::new(),
            keep: Vec::new(),
        }
    }

    pub fn limits(&self) -> &super::Limits {
        &self.shared.physical.limits
    }

    fn push(&mut self, label: &str, accesses: &[Access], command: Command) {
        let barrier_before = self.tracker.next(accesses);
        self.steps.push(Step {
            label: label.into(),
            barrier_before,
            command,
        });
    }

    /// Appends a dispatch of `groups` workgroups with the ranges it reads and
    /// writes. `push` are the values of all push constants; like the buffers they
    /// are fixed from here on. Zero groups record nothing.
    ///
    /// # Errors
    /// A binding that is misaligned, out of its buffer or larger than the device
    /// allows; counts that do not match the pipeline; too many workgroups.
    pub fn dispatch(
        &mut self,
        label: &str,
        pipeline: &Arc<VulkanPipeline>,
        binds: &[StorageBind<'_>],
        push: &[u32],
        groups: [u32; 3],
        accesses: &[Access],
    ) -> Result<()> {
        let limits = self.shared.physical.limits;
        let bad = |reason: String| HalError::Driver {
            api: API,
            call: "dispatch",
            reason: format!("{label} ({}): {reason}", pipeline.name),
        };
        if !Arc::ptr_eq(&pipeline.shared, &self.shared) {
            return Err(HalError::WrongDevice {
                wanted: API,
                found: "vulkan (another device's)",
            });
        }
        if binds.len() != pipeline.buffers as usize || push.len() != pipeline.push_words as usize {
            return Err(bad(format!(
                "{} buffers and {} constants given, the pipeline takes {} and {}",
                binds.len(),
                push.len(),
                pipeline.buffers,
                pipeline.push_words
            )));
        }
        if (0..3).any(|i| groups[i] > limits.workgroups[i]) {
            return Err(bad(format!(
                "{groups:?} workgroups, the device takes {:?}",
                limits.workgroups
            )));
        }
        let mut infos = Vec::with_capacity(binds.len());
        for b in binds {
            b.buffer.check("binding", b.offset, b.bytes)?;
            let memory = Memory::of(&self.shared, b.buffer)?;
            if !b.offset.is_multiple_of(limits.storage_alignment) {
                return Err(bad(format!(
                    "binding offset {} is not a multiple of {}",
                    b.offset, limits.storage_alignment
                )));
            }
            let room = memory.raw.size - b.offset;
            let range = b.bytes.max(1).next_multiple_of(16).min(room);
            if range > limits.storage_range {
                return Err(bad(format!(
                    "a binding of {range} bytes, the device takes {}",
                    limits.storage_range
                )));
            }
            infos.push(
                vk::DescriptorBufferInfo::default()
                    .buffer(memory.raw.handle)
                    .offset(b.offset)
                    .range(range),
            );
        }
        if groups.contains(&0) {
            return Ok(());
        }
        self.keep.extend(binds.iter().map(|b| b.buffer.clone()));
        let command = Command::Dispatch {
            pipeline: pipeline.clone(),
            binds: infos,
            push: push.to_vec(),
            groups,
        };
        self.push(label, accesses, command);
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
        let (a, b) = (
            Memory::of(&self.shared, src)?.raw.handle,
            Memory::of(&self.shared, dst)?.raw.handle,
        );
        if size == 0 {
            return Ok(());
        }
        if a == b && from.start < to.end && to.start < from.end {
            return Err(HalError::Driver {
                api: API,
                call: "copy",
                reason: format!("source {from:?} and destination {to:?} overlap in one buffer"),
            });
        }
        self.keep.extend([src.clone(), dst.clone()]);
        let command = Command::Copy {
            src: a,
            dst: b,
            region: vk::BufferCopy {
                src_offset,
                dst_offset,
                size,
            },
        };
        let accesses = [Access::read(src, from), Access::write(dst, to)];
        self.push(label, &accesses, command);
        Ok(())
    }
}

impl Recorder for VulkanRecorder {
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
        let src = VulkanMailbox::of(src)?.buffer.clone();
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
        let dst = VulkanMailbox::of(dst)?.buffer.clone();
        self.copy_labelled("copy_out", (src, offset), (&dst, at as u64), bytes)
    }

    fn commands(&self) -> usize {
        self.steps.len()
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn Recording>> {
        let mut recording = VulkanRecording {
            label: self.label,
            shared: self.shared,
            steps: self.steps,
            sets: Vec::new(),
            cmd: vk::CommandBuffer::null(),
            pool: vk::CommandPool::null(),
            descriptors: vk::DescriptorPool::null(),
            timed: Mutex::new(None),
            _keep: self.keep,
        };
        recording.build()?;
        Ok(Box::new(recording))
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

struct Timed {
    cmd: vk::CommandBuffer,
    queries: vk::QueryPool,
}

struct VulkanRecording {
    label: String,
    shared: Arc<Shared>,
    steps: Vec<Step>,
    /// One for each dispatch, in order.
    sets: Vec<vk::DescriptorSet>,
    cmd: vk::CommandBuffer,
    pool: vk::CommandPool,
    descriptors: vk::DescriptorPool,
    timed: Mutex<Option<Timed>>,
    _keep: Vec<Buffer>,
}

const WORK: vk::PipelineStageFlags2 = vk::PipelineStageFlags2::from_raw(
    vk::PipelineStageFlags2::COMPUTE_SHADER.as_raw()
        | vk::PipelineStageFlags2::ALL_TRANSFER.as_raw(),
);
const WRITES: vk::AccessFlags2 = vk::AccessFlags2::from_raw(
    vk::AccessFlags2::SHADER_STORAGE_WRITE.as_raw() | vk::AccessFlags2::TRANSFER_WRITE.as_raw(),
);
const ALL: vk::AccessFlags2 = vk::AccessFlags2::from_raw(
    WRITES.as_raw()
        | vk::AccessFlags2::SHADER_STORAGE_READ.as_raw()
        | vk::AccessFlags2::TRANSFER_READ.as_raw(),
);

fn barrier(
    raw: &ash::Device,
    cmd: vk::CommandBuffer,
    to: (vk::PipelineStageFlags2, vk::AccessFlags2),
) {
    let barriers = [vk::MemoryBarrier2::default()
        .src_stage_mask(WORK)
        .src_access_mask(WRITES)
        .dst_stage_mask(to.0)
        .dst_access_mask(to.1)];
    let info = vk::DependencyInfo::default().memory_barriers(&barriers);
    // SAFETY: the command buffer is being recorded.
    unsafe { raw.cmd_pipeline_barrier2(cmd, &info) };
}

/// Makes everything written visible to the host once the submission is over.
pub(super) fn host_barrier(raw: &ash::Device, cmd: vk::CommandBuffer) {
    let host = (vk::PipelineStageFlags2::HOST, vk::AccessFlags2::HOST_READ);
    barrier(raw, cmd, host);
}

impl VulkanRecording {
    fn build(&mut self) -> Result<()> {
        let shared = self.shared.clone();
        let raw = &shared.raw;
        let pool_info =
            vk::CommandPoolCreateInfo::default().queue_family_index(shared.physical.queue_family);
        // SAFETY: the device is alive; the pool is destroyed on drop.
        let pool = unsafe { raw.create_command_pool(&pool_info, None) };
        self.pool = shared.check(pool, "vkCreateCommandPool")?;
        self.describe()?;
        self.cmd = self.record(None)?;
        Ok(())
    }

    /// Allocates and writes the descriptor sets.
    fn describe(&mut self) -> Result<()> {
        let shared = self.shared.clone();
        let raw = &shared.raw;
        let dispatches: Vec<_> = self
            .steps
            .iter()
            .filter_map(|s| match &s.command {
                Command::Dispatch {
                    pipeline, binds, ..
                } => Some((pipeline.set_layout, binds)),
                Command::Copy { .. } => None,
            })
            .collect();
        if dispatches.is_empty() {
            return Ok(());
        }
        let buffers: usize = dispatches.iter().map(|(_, b)| b.len()).sum();
        let sizes = [vk::DescriptorPoolSize {
            ty: vk::DescriptorType::STORAGE_BUFFER,
            descriptor_count: buffers.max(1) as u32,
        }];
        let info = vk::DescriptorPoolCreateInfo::default()
            .max_sets(dispatches.len() as u32)
            .pool_sizes(&sizes);
        // SAFETY: the device is alive; the pool is destroyed on drop.
        let pool = unsafe { raw.create_descriptor_pool(&info, None) };
        self.descriptors = shared.check(pool, "vkCreateDescriptorPool")?;
        let layouts: Vec<_> = dispatches.iter().map(|(l, _)| *l).collect();
        let info = vk::DescriptorSetAllocateInfo::default()
            .descriptor_pool(self.descriptors)
            .set_layouts(&layouts);
        // SAFETY: the pool was sized for exactly these sets.
        let sets = unsafe { raw.allocate_descriptor_sets(&info) };
        let sets = shared.check(sets, "vkAllocateDescriptorSets")?;
        let mut writes = Vec::with_capacity(buffers);
        for ((_, binds), &set) in dispatches.iter().zip(&sets) {
            for (i, bind) in binds.iter().enumerate() {
                writes.push(
                    vk::WriteDescriptorSet::default()
                        .dst_set(set)
                        .dst_binding(i as u32)
                        .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                        .buffer_info(std::slice::from_ref(bind)),
                );
            }
        }
        // SAFETY: new sets, live buffers that the recording keeps.
        unsafe { raw.update_descriptor_sets(&writes, &[]) };
        self.sets = sets;
        Ok(())
    }

    /// A command buffer with all steps; with queries it is timed, step by step.
    fn record(&self, queries: Option<vk::QueryPool>) -> Result<vk::CommandBuffer> {
        let shared = &self.shared;
        let raw = &shared.raw;
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(self.pool)
            .level(vk::CommandBufferLevel::PRIMARY)
            .command_buffer_count(1);
        // SAFETY: the pool is this recording's own.
        let cmds = unsafe { raw.allocate_command_buffers(&info) };
        let cmd = shared.check(cmds, "vkAllocateCommandBuffers")?[0];
        let begin = vk::CommandBufferBeginInfo::default();
        // SAFETY: a new command buffer.
        let begun = unsafe { raw.begin_command_buffer(cmd, &begin) };
        shared.check(begun, "vkBeginCommandBuffer")?;
        let stamp = |i: usize| {
            if let Some(pool) = queries {
                let stage = vk::PipelineStageFlags2::ALL_COMMANDS;
                // SAFETY: the pool has one query more than there are steps.
                unsafe { raw.cmd_write_timestamp2(cmd, stage, pool, i as u32) };
            }
        };
        if let Some(pool) = queries {
            // SAFETY: outside a render pass, all queries of the pool.
            unsafe { raw.cmd_reset_query_pool(cmd, pool, 0, self.steps.len() as u32 + 1) };
        }
        stamp(0);
        let mut sets = self.sets.iter();
        for (i, step) in self.steps.iter().enumerate() {
            // A timed step waits for the one before, else their times overlap.
            if step.barrier_before || (queries.is_some() && i > 0) {
                barrier(raw, cmd, (WORK, ALL));
            }
            let label = self.begin_label(cmd, &step.label);
            self.command(cmd, &step.command, &mut sets);
            if label && let Some(debug) = &shared.debug {
                // SAFETY: closes the label opened above.
                unsafe { debug.cmd_end_debug_utils_label(cmd) };
            }
            stamp(i + 1);
        }
        host_barrier(raw, cmd);
        // SAFETY: the command buffer is being recorded.
        let ended = unsafe { raw.end_command_buffer(cmd) };
        shared.check(ended, "vkEndCommandBuffer")?;
        Ok(cmd)
    }

    fn begin_label(&self, cmd: vk::CommandBuffer, label: &str) -> bool {
        let Some(debug) = &self.shared.debug else {
            return false;
        };
        let Ok(name) = std::ffi::CString::new(label) else {
            return false;
        };
        let info = vk::DebugUtilsLabelEXT::default().label_name(&name);
        // SAFETY: the command buffer is being recorded.
        unsafe { debug.cmd_begin_debug_utils_label(cmd, &info) };
        true
    }

    fn command<'a>(
        &self,
        cmd: vk::CommandBuffer,
        command: &Command,
        sets: &mut impl Iterator<Item = &'a vk::DescriptorSet>,
    ) {
        let raw = &self.shared.raw;
        match command {
            Command::Copy { src, dst, region } => {
                // SAFETY: both ranges were checked when the copy was recorded.
                unsafe { raw.cmd_copy_buffer(cmd, *src, *dst, &[*region]) }
            }
            Command::Dispatch {
                pipeline,
                push,
                groups,
                ..
            } => {
                let point = vk::PipelineBindPoint::COMPUTE;
                let bytes: Vec<u8> = push.iter().flat_map(|w| w.to_ne_bytes()).collect();
                // SAFETY: the set, constants and groups were checked against the
                // pipeline and the limits when the dispatch was recorded.
                unsafe {
                    raw.cmd_bind_pipeline(cmd, point, pipeline.handle);
                    if let Some(&set) = sets.next() {
                        raw.cmd_bind_descriptor_sets(cmd, point, pipeline.layout, 0, &[set], &[]);
                    }
                    if !bytes.is_empty() {
                        let stage = vk::ShaderStageFlags::COMPUTE;
                        raw.cmd_push_constants(cmd, pipeline.layout, stage, 0, &bytes);
                    }
                    raw.cmd_dispatch(cmd, groups[0], groups[1], groups[2]);
                }
            }
        }
    }

    fn timed(&self, slot: &mut Option<Timed>) -> Result<(vk::CommandBuffer, vk::QueryPool)> {
        if let Some(t) = slot {
            return Ok((t.cmd, t.queries));
        }
        let info = vk::QueryPoolCreateInfo::default()
            .query_type(vk::QueryType::TIMESTAMP)
            .query_count(self.steps.len() as u32 + 1);
        // SAFETY: the device is alive; the pool is destroyed on drop.
        let queries = unsafe { self.shared.raw.create_query_pool(&info, None) };
        let queries = self.shared.check(queries, "vkCreateQueryPool")?;
        match self.record(Some(queries)) {
            Ok(cmd) => {
                *slot = Some(Timed { cmd, queries });
                Ok((cmd, queries))
            }
            Err(e) => {
                // SAFETY: its command buffer was never submitted.
                unsafe { self.shared.raw.destroy_query_pool(queries, None) };
                Err(e)
            }
        }
    }
}

impl Recording for VulkanRecording {
    fn run(&self) -> Result<()> {
        let mut queue = self.shared.queue();
        self.shared.submit(&mut queue, self.cmd, &self.label)
    }

    fn stats(&self) -> RecordingStats {
        RecordingStats {
            commands: self.steps.len(),
            barriers: self.steps.iter().filter(|s| s.barrier_before).count(),
        }
    }

    fn run_timed(&self) -> Result<Vec<StepTime>> {
        let period = self.shared.physical.limits.timestamp_period;
        if period == 0.0 {
            return Err(HalError::Driver {
                api: API,
                call: "vkCmdWriteTimestamp2",
                reason: format!(
                    "the queue of {} has no timestamps: run without times",
                    self.shared.physical.info.name
                ),
            });
        }
        let mut slot = self.timed.lock().unwrap_or_else(|e| e.into_inner());
        let (cmd, queries) = self.timed(&mut slot)?;
        let mut queue = self.shared.queue();
        self.shared.submit(&mut queue, cmd, &self.label)?;
        let mut ticks = vec![0u64; self.steps.len() + 1];
        let flags = vk::QueryResultFlags::TYPE_64 | vk::QueryResultFlags::WAIT;
        // SAFETY: the submission that writes all of the pool's queries is over.
        let read = unsafe {
            self.shared
                .raw
                .get_query_pool_results(queries, 0, &mut ticks, flags)
        };
        self.shared.check(read, "vkGetQueryPoolResults")?;
        let seconds = |a: u64, b: u64| b.saturating_sub(a) as f64 * f64::from(period) * 1e-9;
        Ok(self
            .steps
            .iter()
            .zip(ticks.windows(2))
            .map(|(step, t)| StepTime {
                label: format!("{}/{}", self.label, step.label),
                seconds: seconds(t[0], t[1]),
            })
            .collect())
    }
}

impl Drop for VulkanRecording {
    fn drop(&mut self) {
        let timed = self.timed.get_mut().unwrap_or_else(|e| e.into_inner());
        let raw = &self.shared.raw;
        // SAFETY: every run was waited for; null handles are ignored.
        unsafe {
            if let Some(t) = timed.take() {
                raw.destroy_query_pool(t.queries, None);
            }
            raw.destroy_command_pool(self.pool, None);
            raw.destroy_descriptor_pool(self.descriptors, None);
        }
    }
}
