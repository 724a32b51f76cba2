//! Cooperative matrices (`VK_KHR_cooperative_matrix`, `VK_NV_cooperative_matrix2`):
//! which ones a device multiplies, and what must be switched on for them.

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

const MATRIX2: &CStr = c"VK_NV_cooperative_matrix2";

/// `VkPhysicalDeviceCooperativeMatrix2FeaturesNV`, which the bindings do not know yet.
#[repr(C)]
pub(super) struct Matrix2Features<'a> {
    s_type: vk::StructureType,
    p_next: *mut c_void,
    workgroup_scope: vk::Bool32,
    flexible_dimensions: vk::Bool32,
    reductions: vk::Bool32,
    conversions: vk::Bool32,
    per_element: vk::Bool32,
    tensor_addressing: vk::Bool32,
    block_loads: vk::Bool32,
    _marker: PhantomData<&'a ()>,
}

impl Default for Matrix2Features<'_> {
    fn default() -> Self {
        Matrix2Features {
            s_type: <Self as vk::TaggedStructure>::STRUCTURE_TYPE,
            p_next: std::ptr::null_mut(),
            workgroup_scope: vk::FALSE,
            flexible_dimensions: vk::FALSE,
            reductions: vk::FALSE,
            conversions: vk::FALSE,
            per_element: vk::FALSE,
            tensor_addressing: vk::FALSE,
            block_loads: vk::FALSE,
            _marker: PhantomData,
        }
    }
}

// SAFETY: laid out as the specification says, beginning with its own type and the
// next structure.
unsafe impl vk::TaggedStructure for Matrix2Features<'_> {
    const STRUCTURE_TYPE: vk::StructureType = vk::StructureType::from_raw(1_000_593_000);
}
// SAFETY: the specification lists both structures that it extends.
unsafe impl vk::ExtendsPhysicalDeviceFeatures2 for Matrix2Features<'_> {}
// SAFETY: as above.
unsafe impl vk::ExtendsDeviceCreateInfo for Matrix2Features<'_> {}

impl Matrix2Features<'_> {
    /// What the kernels of whole workgroups use.
    fn enough(&self) -> bool {
        let all = [
            self.workgroup_scope,
            self.flexible_dimensions,
            self.per_element,
            self.tensor_addressing,
        ];
        all.iter().all(|f| *f != vk::FALSE)
    }
}

/// `VkCooperativeMatrixFlexibleDimensionsPropertiesNV`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FlexibleDimensions {
    s_type: vk::StructureType,
    p_next: *mut c_void,
    m: u32,
    n: u32,
    k: u32,
    a: vk::ComponentTypeKHR,
    b: vk::ComponentTypeKHR,
    c: vk::ComponentTypeKHR,
    result: vk::ComponentTypeKHR,
    saturating: vk::Bool32,
    scope: vk::ScopeKHR,
    invocations: u32,
}

type FlexibleDimensionsQuery =
    unsafe extern "system" fn(vk::PhysicalDevice, *mut u32, *mut FlexibleDimensions) -> vk::Result;

impl FlexibleDimensions {
    const QUERY: &CStr = c"vkGetPhysicalDeviceCooperativeMatrixFlexibleDimensionsPropertiesNV";

    fn all(instance: &Instance, handle: vk::PhysicalDevice) -> Vec<FlexibleDimensions> {
        // SAFETY: a live instance; the function has the type that the specification
        // gives it.
        let query = unsafe {
            let found = (instance.entry)
                .get_instance_proc_addr(instance.raw.handle(), Self::QUERY.as_ptr());
            found.map(|f| std::mem::transmute::<_, FlexibleDimensionsQuery>(f))
        };
        let Some(query) = query else {
            return Vec::new();
        };
        let empty = FlexibleDimensions {
            s_type: vk::StructureType::from_raw(1_000_593_001),
            p_next: std::ptr::null_mut(),
            m: 0,
            n: 0,
            k: 0,
            a: vk::ComponentTypeKHR::FLOAT16,
            b: vk::ComponentTypeKHR::FLOAT16,
            c: vk::ComponentTypeKHR::FLOAT16,
            result: vk::ComponentTypeKHR::FLOAT16,
            saturating: vk::FALSE,
            scope: vk::ScopeKHR::SUBGROUP,
            invocations: 0,
        };
        let mut count = 0;
        // SAFETY: asks for the count alone, then fills as many structures as there are.
        unsafe {
            if query(handle, &mut count, std::ptr::null_mut()) != vk::Result::SUCCESS {
                return Vec::new();
            }
            let mut all = vec![empty; count as usize];
            if query(handle, &mut count, all.as_mut_ptr()) != vk::Result::SUCCESS {
                return Vec::new();
            }
            all.truncate(count as usize);
            all
        }
    }

    /// Whether workgroups of [`WORKGROUP_LANES`] multiply `factor`, with sums in f32,
    /// rows in steps of 64, columns and depth of 32.
    fn fits(&self, factor: vk::ComponentTypeKHR) -> bool {
        let sum = vk::ComponentTypeKHR::FLOAT32;
        (self.a, self.b) == (factor, factor)
            && (self.c, self.result) == (sum, sum)
            && self.saturating == vk::FALSE
            && self.scope == vk::ScopeKHR::WORKGROUP
            && self.invocations == WORKGROUP_LANES
            && [(self.m, 64), (self.n, 32), (self.k, 32)]
                .iter()
                .all(|(grain, tile)| *grain > 0 && tile % grain == 0)
    }
}

/// Lanes of workgroups that multiply matrices as one.
pub const WORKGROUP_LANES: u32 = 256;

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
    /// Products of bf16 by workgroups of [`WORKGROUP_LANES`] as one, rows in steps of 64, columns
    /// and depth of 32 (`VK_NV_cooperative_matrix2`).
    pub workgroup_bf16: bool,
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
        let mut matrices2 = Matrix2Features::default();
        if has_extension(MATRIX2) {
            features = features.push_next(&mut matrices2);
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
        let bf16 = best(BFLOAT16_COMPONENT)
            .filter(|_| brain.bfloat16_type != 0 && brain.cooperative_matrix != 0);
        let f16 = best(vk::ComponentTypeKHR::FLOAT16).filter(|_| halves);
        let as_one = || {
            let all = FlexibleDimensions::all(instance, handle);
            all.iter().any(|p| p.fits(BFLOAT16_COMPONENT))
        };
        Coopmat {
            f16,
            bf16,
            workgroup_bf16: bf16.is_some() && matrices2.enough() && as_one(),
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
        if self.workgroup_bf16 {
            all.push(MATRIX2);
        }
        all
    }

    /// Switches on what these products need.
    pub(super) fn enable<'a>(
        &self,
        info: vk::DeviceCreateInfo<'a>,
        matrices: &'a mut vk::PhysicalDeviceCooperativeMatrixFeaturesKHR<'a>,
        brain: &'a mut Bfloat16Features<'a>,
        matrices2: &'a mut Matrix2Features<'a>,
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
        if self.workgroup_bf16 {
            matrices2.workgroup_scope = vk::TRUE;
            matrices2.flexible_dimensions = vk::TRUE;
            matrices2.per_element = vk::TRUE;
            matrices2.tensor_addressing = vk::TRUE;
            info = info.push_next(matrices2);
        }
        info
    }
}
