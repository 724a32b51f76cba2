//! Compute pipelines over storage buffers.

use super::API;
use super::device::Shared;
use super::pipeline_cache::PipelineCache;
use crate::{HalError, Result};
use ash::vk;
use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};

/// A shader and what is fixed when its pipeline is made.
#[derive(Clone, Debug)]
pub struct PipelineDesc<'a> {
    /// For messages.
    pub name: &'a str,
    /// SPIR-V whose entry point is `main`.
    pub spirv: &'static [u8],
    /// Storage buffers, bindings `0..buffers` of set 0.
    pub buffers: u32,
    /// Push constants, u32 words.
    pub push_words: u32,
    /// Values of the specialization constants 0, 1, …; constant 0 is the
    /// workgroup's size along x.
    pub spec: &'a [u32],
}

type Key = (usize, usize, u32, u32, Vec<u32>);

struct Layout {
    set: vk::DescriptorSetLayout,
    pipeline: vk::PipelineLayout,
}

/// All pipelines of a device; they live as long as it does.
pub(super) struct Pipelines {
    made: HashMap<Key, vk::Pipeline>,
    layouts: HashMap<(u32, u32), Layout>,
    cache: PipelineCache,
}

impl Pipelines {
    pub fn new(cache: PipelineCache) -> Self {
        Pipelines {
            made: HashMap::new(),
            layouts: HashMap::new(),
            cache,
        }
    }

    /// Why a cache that is there was not used.
    pub fn notice(&self) -> Option<String> {
        self.cache.notice.clone()
    }

    /// # Safety
    /// The device is idle and no recording of it is left.
    pub unsafe fn destroy(&mut self, raw: &ash::Device) {
        // SAFETY: the caller's promise; every handle is drained, so destroyed
        // once.
        unsafe {
            self.cache.close(raw);
            for (_, p) in self.made.drain() {
                raw.destroy_pipeline(p, None);
            }
            for (_, l) in self.layouts.drain() {
                raw.destroy_pipeline_layout(l.pipeline, None);
                raw.destroy_descriptor_set_layout(l.set, None);
            }
        }
    }

    fn layout(
        &mut self,
        raw: &ash::Device,
        buffers: u32,
        push_words: u32,
    ) -> ash::prelude::VkResult<(vk::DescriptorSetLayout, vk::PipelineLayout)> {
        if let Some(l) = self.layouts.get(&(buffers, push_words)) {
            return Ok((l.set, l.pipeline));
        }
        let bindings: Vec<_> = (0..buffers)
            .map(|i| {
                vk::DescriptorSetLayoutBinding::default()
                    .binding(i)
                    .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                    .descriptor_count(1)
                    .stage_flags(vk::ShaderStageFlags::COMPUTE)
            })
            .collect();
        let set_info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        // SAFETY: the device is alive, the create info valid.
        let set = unsafe { raw.create_descriptor_set_layout(&set_info, None) }?;
        let sets = [set];
        let ranges = [vk::PushConstantRange {
            stage_flags: vk::ShaderStageFlags::COMPUTE,
            offset: 0,
            size: push_words * 4,
        }];
        let ranges = if push_words == 0 { &[][..] } else { &ranges };
        let info = vk::PipelineLayoutCreateInfo::default()
            .set_layouts(&sets)
            .push_constant_ranges(ranges);
        // SAFETY: as above; on failure the set layout was never used.
        let pipeline = unsafe {
            raw.create_pipeline_layout(&info, None)
                .inspect_err(|_| raw.destroy_descriptor_set_layout(set, None))
        }?;
        self.layouts
            .insert((buffers, push_words), Layout { set, pipeline });
        Ok((set, pipeline))
    }
}

/// A pipeline of one device, ready to be dispatched.
pub struct VulkanPipeline {
    pub(super) shared: Arc<Shared>,
    pub(super) handle: vk::Pipeline,
    pub(super) set_layout: vk::DescriptorSetLayout,
    pub(super) layout: vk::PipelineLayout,
    pub(super) buffers: u32,
    pub(super) push_words: u32,
    pub(super) name: String,
}

impl VulkanPipeline {
    pub(super) fn get(shared: &Arc<Shared>, desc: &PipelineDesc) -> Result<Arc<Self>> {
        let limits = &shared.physical.limits;
        let fail = |reason: String| HalError::Driver {
            api: API,
            call: "vkCreateComputePipelines",
            reason: format!("{}: {reason}", desc.name),
        };
        if desc.push_words * 4 > limits.push_constants {
            return Err(fail(format!(
                "{} bytes of push constants, the device takes {}",
                desc.push_words * 4,
                limits.push_constants
            )));
        }
        let mut pipelines: MutexGuard<'_, Pipelines> =
            shared.pipelines.lock().unwrap_or_else(|e| e.into_inner());
        let (set_layout, layout) = shared.check(
            pipelines.layout(&shared.raw, desc.buffers, desc.push_words),
            "vkCreatePipelineLayout",
        )?;
        let key = (
            desc.spirv.as_ptr() as usize,
            desc.spirv.len(),
            desc.buffers,
            desc.push_words,
            desc.spec.to_vec(),
        );
        let handle = match pipelines.made.get(&key) {
            Some(&p) => p,
            None => {
                let p = create(shared, desc, layout, pipelines.cache.handle).map_err(fail)?;
                pipelines.made.insert(key, p);
                p
            }
        };
        Ok(Arc::new(VulkanPipeline {
            shared: shared.clone(),
            handle,
            set_layout,
            layout,
            buffers: desc.buffers,
            push_words: desc.push_words,
            name: desc.name.into(),
        }))
    }
}

fn create(
    shared: &Shared,
    desc: &PipelineDesc,
    layout: vk::PipelineLayout,
    cache: vk::PipelineCache,
) -> Result<vk::Pipeline, String> {
    let raw = &shared.raw;
    let code = ash::util::read_spv(&mut std::io::Cursor::new(desc.spirv))
        .map_err(|e| format!("not SPIR-V: {e}"))?;
    let module_info = vk::ShaderModuleCreateInfo::default().code(&code);
    // SAFETY: SPIR-V of this program, checked by the tree's tests.
    let module = unsafe { raw.create_shader_module(&module_info, None) }
        .map_err(|e| format!("vkCreateShaderModule: {e:?}"))?;
    let entries: Vec<_> = (0..desc.spec.len() as u32)
        .map(|i| vk::SpecializationMapEntry {
            constant_id: i,
            offset: i * 4,
            size: 4,
        })
        .collect();
    let data: Vec<u8> = desc.spec.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let spec = vk::SpecializationInfo::default()
        .map_entries(&entries)
        .data(&data);
    let subgroup = shared.physical.info.subgroup;
    let mut required = vk::PipelineShaderStageRequiredSubgroupSizeCreateInfo::default()
        .required_subgroup_size(subgroup);
    let mut stage = vk::PipelineShaderStageCreateInfo::default()
        .stage(vk::ShaderStageFlags::COMPUTE)
        .module(module)
        .name(c"main")
        .specialization_info(&spec);
    let whole = desc.spec.first().is_some_and(|x| x % subgroup == 0);
    if shared.physical.limits.whole_subgroups && whole {
        stage = stage.flags(vk::PipelineShaderStageCreateFlags::REQUIRE_FULL_SUBGROUPS);
        if shared.physical.choose_subgroup {
            stage = stage.push_next(&mut required);
        }
    }
    let info = vk::ComputePipelineCreateInfo::default()
        .stage(stage)
        .layout(layout);
    // SAFETY: the module, layout and constants match the shader's interface; the
    // module may go once the pipeline exists.
    let made = unsafe {
        let made = raw.create_compute_pipelines(cache, &[info], None);
        raw.destroy_shader_module(module, None);
        made
    };
    match made {
        Ok(p) => Ok(p[0]),
        Err((_, e)) => Err(format!("{e:?}: update the driver or use another backend")),
    }
}
