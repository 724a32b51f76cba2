//! What a physical device offers, and what it lacks of what is demanded.

use super::API;
use super::coopmat::Coopmat;
use super::instance::Instance;
use super::options::is_switched_off;
use crate::{DeviceInfo, DeviceKind};
use ash::vk;
use std::collections::BTreeSet;

/// Features of devices that multiply cooperative matrices of f16 or bf16.
pub const COOPMAT_F16: &str = "coopmat_f16";
pub const COOPMAT_BF16: &str = "coopmat_bf16";
/// Whole workgroups multiply such of bf16 as one.
pub const COOPMAT2_BF16: &str = "coopmat2_bf16";

/// Shaders take 24 storage buffers and not only 16.
pub const STORAGE_BUFFERS_24: &str = "storage_buffers_24";

/// Features that some kernels demand and not every device has.
pub const OPTIONAL_FEATURES: &[&str] = &[
    "integer_dot_accelerated",
    STORAGE_BUFFERS_24,
    COOPMAT_F16,
    COOPMAT_BF16,
    COOPMAT2_BF16,
];

/// Limits that geometry and bindings must respect.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest range of one storage buffer binding, bytes.
    pub storage_range: u64,
    /// Largest part of a matrix that a kernel binds at once, bytes: as much as a
    /// binding holds.
    pub matrix_range: u64,
    /// Offsets of bindings are multiples of this, bytes.
    pub storage_alignment: u64,
    pub workgroups: [u32; 3],
    /// Lanes of a workgroup.
    pub workgroup_invocations: u32,
    /// Shared memory of a workgroup, bytes.
    pub shared_memory: u32,
    pub push_constants: u32,
    /// Most lanes that a reduction should use: on a CPU a barrier between
    /// subgroups costs more than it gains.
    pub reduce_lanes: u32,
    /// A workgroup of as many lanes as [`DeviceInfo::subgroup`] is one subgroup.
    pub whole_subgroups: bool,
    /// Largest single allocation, bytes.
    pub allocation: u64,
    /// Products of cooperative matrices.
    pub coopmat: Coopmat,
    /// Rows, columns and rows of subgroups of the tiles of such products, in place of
    /// the kernels' own: to try others.
    pub coopmat_tile: Option<[u32; 3]>,
    /// Subgroups of a workgroup, most workgroups and groups of weights loaded ahead of
    /// products of one row in int8, in place of the kernels' own: to try others.
    pub gemv: Option<[u32; 3]>,
    /// Nanoseconds of a timestamp tick; 0 if the queue has no timestamps.
    pub timestamp_period: f32,
}

impl Limits {
    /// How many of `rows` rows of `row` bytes one binding can hold, whatever the
    /// offset at which the first begins.
    pub fn rows_per_binding(&self, row: u64, rows: usize) -> usize {
        let room = self
            .matrix_range
            .saturating_sub(self.storage_alignment.max(16) + 16);
        let most = room.checked_div(row).unwrap_or(u64::MAX);
        usize::try_from(most).map_or(rows, |m| m.min(rows))
    }
}

pub(super) struct Physical {
    pub handle: vk::PhysicalDevice,
    pub info: DeviceInfo,
    pub limits: Limits,
    pub memory: vk::PhysicalDeviceMemoryProperties,
    pub queue_family: u32,
    /// Pipelines can name the subgroup size they want.
    pub choose_subgroup: bool,
    pub memory_budget: bool,
    /// What compiled pipelines are good for.
    pub vendor: u32,
    pub device: u32,
    pub cache_uuid: [u8; 16],
    /// Demands it does not meet, by name; empty for a device that can be used.
    pub missing: Vec<&'static str>,
}

impl Physical {
    pub fn query(instance: &Instance, handle: vk::PhysicalDevice, index: usize) -> Physical {
        let raw = &instance.raw;
        let mut subgroup = vk::PhysicalDeviceSubgroupProperties::default();
        let mut sizes = vk::PhysicalDeviceSubgroupSizeControlProperties::default();
        let mut driver = vk::PhysicalDeviceDriverProperties::default();
        let mut id = vk::PhysicalDeviceIDProperties::default();
        let mut large = vk::PhysicalDeviceMaintenance3Properties::default();
        let mut dot = vk::PhysicalDeviceShaderIntegerDotProductProperties::default();
        // SAFETY: plain queries of a device of this instance.
        let base = unsafe { raw.get_physical_device_properties(handle) };
        let modern = base.api_version >= vk::API_VERSION_1_3;
        let mut f11 = vk::PhysicalDeviceVulkan11Features::default();
        let mut f12 = vk::PhysicalDeviceVulkan12Features::default();
        let mut f13 = vk::PhysicalDeviceVulkan13Features::default();
        if modern {
            let mut props = vk::PhysicalDeviceProperties2::default()
                .push_next(&mut subgroup)
                .push_next(&mut sizes)
                .push_next(&mut driver)
                .push_next(&mut id)
                .push_next(&mut large)
                .push_next(&mut dot);
            let mut features = vk::PhysicalDeviceFeatures2::default()
                .push_next(&mut f11)
                .push_next(&mut f12)
                .push_next(&mut f13);
            // SAFETY: as above; the chains hold structures that Vulkan 1.3 knows.
            unsafe {
                raw.get_physical_device_properties2(handle, &mut props);
                raw.get_physical_device_features2(handle, &mut features);
            }
        }
        // SAFETY: plain queries.
        let (memory, families, extensions) = unsafe {
            (
                raw.get_physical_device_memory_properties(handle),
                raw.get_physical_device_queue_family_properties(handle),
                raw.enumerate_device_extension_properties(handle)
                    .unwrap_or_default(),
            )
        };
        let has_extension = |name: &std::ffi::CStr| {
            extensions
                .iter()
                .any(|e| e.extension_name_as_c_str() == Ok(name))
        };
        let queue_family = families
            .iter()
            .position(|f| f.queue_flags.contains(vk::QueueFlags::COMPUTE));

        let arithmetic = vk::SubgroupFeatureFlags::BASIC | vk::SubgroupFeatureFlags::ARITHMETIC;
        let in_compute = subgroup
            .supported_stages
            .contains(vk::ShaderStageFlags::COMPUTE);
        let mut missing = Vec::new();
        if modern {
            let demands = [
                (
                    f11.storage_buffer16_bit_access != 0,
                    "16-bit storage (storageBuffer16BitAccess)",
                ),
                (f12.timeline_semaphore != 0, "timeline semaphores"),
                (f12.scalar_block_layout != 0, "scalar block layout"),
                (f13.synchronization2 != 0, "synchronization2"),
                (
                    in_compute && subgroup.supported_operations.contains(arithmetic),
                    "subgroup arithmetic in compute shaders",
                ),
                (queue_family.is_some(), "a compute queue"),
                (
                    base.limits.max_per_stage_descriptor_storage_buffers >= 16,
                    "16 storage buffers in one shader",
                ),
            ];
            missing.extend(demands.iter().filter(|(ok, _)| !ok).map(|(_, name)| *name));
        } else {
            missing.push("Vulkan 1.3");
        }

        let choose_subgroup = f13.subgroup_size_control != 0
            && sizes
                .required_subgroup_size_stages
                .contains(vk::ShaderStageFlags::COMPUTE);
        let one_size = sizes.min_subgroup_size == sizes.max_subgroup_size;
        let whole_subgroups = f13.compute_full_subgroups != 0 && (choose_subgroup || one_size);
        let coopmat = match modern && whole_subgroups {
            true => Coopmat::query(instance, handle, &has_extension, &f12),
            false => Coopmat::default(),
        };
        let mut features = BTreeSet::new();
        for (present, name) in [
            (f12.shader_float16 != 0, "shader_float16"),
            (f12.shader_int8 != 0, "shader_int8"),
            (f12.buffer_device_address != 0, "buffer_device_address"),
            (f13.shader_integer_dot_product != 0, "integer_dot"),
            (
                dot.integer_dot_product4x8_bit_packed_signed_accelerated != 0,
                "integer_dot_accelerated",
            ),
            (
                base.limits.max_per_stage_descriptor_storage_buffers >= 24,
                STORAGE_BUFFERS_24,
            ),
            (coopmat.f16.is_some(), COOPMAT_F16),
            (coopmat.bf16.is_some(), COOPMAT_BF16),
            (coopmat.workgroup_bf16, COOPMAT2_BF16),
            (
                has_extension(ash::ext::memory_budget::NAME),
                "memory_budget",
            ),
        ] {
            if present && !is_switched_off(name) {
                features.insert(name);
            }
        }
        let limits = &base.limits;
        let ticks = queue_family.map_or(0, |f| families[f].timestamp_valid_bits);
        let heaps = &memory.memory_heaps[..memory.memory_heap_count as usize];
        let local = |h: &&vk::MemoryHeap| h.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL);
        let text = |s: Result<&std::ffi::CStr, _>| {
            s.map(|s| s.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let kind = match base.device_type {
            vk::PhysicalDeviceType::CPU => DeviceKind::Software,
            vk::PhysicalDeviceType::DISCRETE_GPU => DeviceKind::Discrete,
            _ => DeviceKind::Integrated,
        };
        let info = DeviceInfo {
            api: API,
            index,
            name: text(base.device_name_as_c_str()),
            driver: format!(
                "{} {} (Vulkan {}.{}.{})",
                text(driver.driver_name_as_c_str()),
                text(driver.driver_info_as_c_str()),
                vk::api_version_major(base.api_version),
                vk::api_version_minor(base.api_version),
                vk::api_version_patch(base.api_version)
            ),
            uuid: modern.then(|| format_uuid(&id.device_uuid)),
            kind,
            memory_total: heaps
                .iter()
                .filter(local)
                .map(|h| h.size)
                .max()
                .unwrap_or(0),
            features,
            threads: 1,
            subgroup: subgroup.subgroup_size.max(1),
        };
        Physical {
            handle,
            limits: Limits {
                storage_range: u64::from(limits.max_storage_buffer_range),
                matrix_range: u64::from(limits.max_storage_buffer_range),
                storage_alignment: limits.min_storage_buffer_offset_alignment.max(4),
                workgroups: limits.max_compute_work_group_count,
                // A workgroup of subgroups whose size was asked for has no more of
                // them than this.
                workgroup_invocations: limits
                    .max_compute_work_group_invocations
                    .min(limits.max_compute_work_group_size[0])
                    .min(match sizes.max_compute_workgroup_subgroups {
                        0 => u32::MAX,
                        n => n.saturating_mul(subgroup.subgroup_size.max(1)),
                    }),
                shared_memory: limits.max_compute_shared_memory_size,
                push_constants: limits.max_push_constants_size,
                reduce_lanes: match kind {
                    DeviceKind::Software => subgroup.subgroup_size.max(1),
                    _ => 256,
                },
                whole_subgroups,
                allocation: match large.max_memory_allocation_size {
                    0 => u64::MAX,
                    n => n,
                },
                coopmat,
                coopmat_tile: None,
                gemv: None,
                timestamp_period: if ticks == 0 {
                    0.0
                } else {
                    limits.timestamp_period
                },
            },
            info,
            memory,
            queue_family: queue_family.unwrap_or(0) as u32,
            choose_subgroup,
            memory_budget: has_extension(ash::ext::memory_budget::NAME),
            vendor: base.vendor_id,
            device: base.device_id,
            cache_uuid: base.pipeline_cache_uuid,
            missing,
        }
    }

    /// The memory type of `bits` with all of `need` and most of `like`; of equals
    /// the one whose heap is largest.
    pub fn memory_type(
        &self,
        bits: u32,
        need: vk::MemoryPropertyFlags,
        like: vk::MemoryPropertyFlags,
    ) -> Option<u32> {
        let types = &self.memory.memory_types[..self.memory.memory_type_count as usize];
        types
            .iter()
            .enumerate()
            .filter(|(i, t)| bits & (1 << i) != 0 && t.property_flags.contains(need))
            .max_by_key(|(i, t)| {
                let liked = (t.property_flags & like).as_raw().count_ones();
                let heap = self.memory.memory_heaps[t.heap_index as usize].size;
                (liked, heap, std::cmp::Reverse(*i))
            })
            .map(|(i, _)| i as u32)
    }

    pub fn flags(&self, memory_type: u32) -> vk::MemoryPropertyFlags {
        self.memory.memory_types[memory_type as usize].property_flags
    }

    /// The largest device-local heap: where buffers go.
    pub fn local_heap(&self) -> usize {
        let heaps = &self.memory.memory_heaps[..self.memory.memory_heap_count as usize];
        let local = |h: &vk::MemoryHeap| h.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL);
        (0..heaps.len())
            .max_by_key(|&i| (local(&heaps[i]), heaps[i].size))
            .unwrap_or(0)
    }
}

fn format_uuid(bytes: &[u8; 16]) -> String {
    let mut out = String::with_capacity(36);
    for (i, b) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push_str(&format!("{b:02x}"));
    }
    out
}
