//! Cooperative matrices (`VK_KHR_cooperative_matrix`): which ones a device
//! multiplies, and what must be switched on for them.

use super::instance::Instance;
use ash::vk;
use std::ffi::{CStr, c_void};
use std::marker::PhantomData;

const BFLOAT16: &CStr = c"VK_KHR_shader_bfloat16";

/// Of `VK_KHR_shader_bfloat16`, which the bindings do not know yet.
const BFLOAT16_COMPONENT: vk::ComponentTypeKHR = vk::ComponentTypeKHR::from_raw(1_000_141_000);

/// `VkPhysicalDeviceShaderBfloat16FeaturesKHR`.
#[repr(C)]
pub(super) struct Bfloat16Features<'a> {
    s_type: vk::StructureType,
    p_next: *mut c_void,
    bfloat16_type: vk::Bool32,
    dot_product: vk::Bool32,
    cooperative_matrix: vk::Bool32,
    _marker: PhantomData<&'a ()>,
}

impl Default for Bfloat16Features<'_> {
    fn default() -> Self {
        Bfloat16Features {
            s_type: <Self as vk::TaggedStructure>::STRUCTURE_TYPE,
            p_next: std::ptr::null_mut(),
            bfloat16_type: vk::FALSE,
            dot_product: vk::FALSE,
            cooperative_matrix: vk::FALSE,
            _marker: PhantomData,
        }
    }
}

// SAFETY: laid out as the specification says, beginning with its own type and the
// next structure.
unsafe impl vk::TaggedStructure for Bfloat16Features<'_> {
    const STRUCTURE_TYPE: vk::StructureType = vk::StructureType::from_raw(1_000_141_000);
}
// SAFETY: the specification lists both structures that it extends.
unsafe impl vk::ExtendsPhysicalDeviceFeatures2 for Bfloat16Features<'_> {}
// SAFETY: as above.
unsafe impl vk::ExtendsDeviceCreateInfo for Bfloat16Features<'_> {}

/// Rows of A, columns of B and depth of one product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoopmatShape {
    pub m: u32,
    pub n: u32,
    pub k: u32,
}

/// The products of a subgroup, factors in 16 bits and sums in f32, that a device
/// does; `None` where it does none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Coopmat {
    pub f16: Option<CoopmatShape>,
    pub bf16: Option<CoopmatShape>,
}

impl Coopmat {
    pub(super) fn query(
        instance: &Instance,
        handle: vk::PhysicalDevice,
        has_extension: &dyn Fn(&CStr) -> bool,
        f12: &vk::PhysicalDeviceVulkan12Features<'_>,
    ) -> Coopmat {
        if !has_extension(ash::khr::cooperative_matrix::NAME) || f12.vulkan_memory_model == 0 {
            return Coopmat::default();
        }
        let mut matrices = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default();
        let mut brain = Bfloat16Features::default();
        let mut features = vk::PhysicalDeviceFeatures2::default().push_next(&mut matrices);
        if has_extension(BFLOAT16) {
            features = features.push_next(&mut brain);
        }
        let loaded = ash::khr::cooperative_matrix::Instance::new(&instance.entry, &instance.raw);
        // SAFETY: plain queries of a device of this instance; the chain holds
        // structures of extensions that it offers.
        let shapes = unsafe {
            (instance.raw).get_physical_device_features2(handle, &mut features);
            loaded.get_physical_device_cooperative_matrix_properties(handle)
        };
        if matrices.cooperative_matrix == 0 {
            return Coopmat::default();
        }
        let shapes = shapes.unwrap_or_default();
        let best = |factor| {
            let sum = vk::ComponentTypeKHR::FLOAT32;
            let fits = |p: &&vk::CooperativeMatrixPropertiesKHR<'_>| {
                (p.a_type, p.b_type) == (factor, factor)
                    && (p.c_type, p.result_type) == (sum, sum)
                    && p.scope == vk::ScopeKHR::SUBGROUP
                    && [p.m_size, p.n_size, p.k_size]
                        .iter()
                        .all(|s| [8, 16].contains(s))
            };
            // Of those that tiles are cut for, the largest.
            let found = shapes.iter().filter(fits);
            let found = found.max_by_key(|p| p.m_size * p.n_size * p.k_size);
            found.map(|p| CoopmatShape {
                m: p.m_size,
                n: p.n_size,
                k: p.k_size,
            })
        };
        let halves = f12.shader_float16 != 0;
        Coopmat {
            f16: best(vk::ComponentTypeKHR::FLOAT16).filter(|_| halves),
            bf16: best(BFLOAT16_COMPONENT)
                .filter(|_| brain.bfloat16_type != 0 && brain.cooperative_matrix != 0),
        }
    }

    pub fn any(&self) -> bool {
        self.f16.is_some() || self.bf16.is_some()
    }

    /// Extensions that a device with these products is opened with.
    pub(super) fn extensions(&self) -> Vec<&'static CStr> {
        let mut all = Vec::new();
        if self.any() {
            all.push(ash::khr::cooperative_matrix::NAME);
        }
        if self.bf16.is_some() {
            all.push(BFLOAT16);
        }
        all
    }

    /// Switches on what these products need.
    pub(super) fn enable<'a>(
        &self,
        info: vk::DeviceCreateInfo<'a>,
        matrices: &'a mut vk::PhysicalDeviceCooperativeMatrixFeaturesKHR<'a>,
        brain: &'a mut Bfloat16Features<'a>,
    ) -> vk::DeviceCreateInfo<'a> {
        let mut info = info;
        if self.any() {
            matrices.cooperative_matrix = vk::TRUE;
            info = info.push_next(matrices);
        }
        if self.bf16.is_some() {
            brain.bfloat16_type = vk::TRUE;
            brain.cooperative_matrix = vk::TRUE;
            info = info.push_next(brain);
        }
        info
    }
}
