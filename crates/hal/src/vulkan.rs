//! Vulkan 1.3, opened at run time.
//!
//! The loader (`libvulkan.so.1`) is found by `dlopen`, so a binary starts on a
//! machine without it and says what to install when a device is asked for.
//! Kernels are SPIR-V compute shaders over storage buffers: a tree builds a
//! [`VulkanPipeline`] through [`VulkanDevice::pipeline`] and appends it to a
//! [`VulkanRecorder`] with the ranges it reads and writes.
//!
//! A recording is one command buffer, recorded once and submitted by one
//! `vkQueueSubmit2` for each run. `ESPALIER_VULKAN_VALIDATION=1` runs everything
//! under the Khronos validation layer with synchronization validation, and
//! [`VulkanDevice::validation`] holds what it said.

mod coopmat;
mod device;
mod instance;
mod memory;
mod options;
mod physical;
mod pipeline;
mod pipeline_cache;
mod record;

pub use coopmat::{Coopmat, CoopmatShape, WORKGROUP_LANES};
pub use device::{VulkanDevice, probe};
pub use instance::ValidationLog;
pub use options::VulkanOptions;
pub use physical::{
    COOPMAT_BF16, COOPMAT_F16, COOPMAT2_BF16, Limits, OPTIONAL_FEATURES, STORAGE_BUFFERS_24,
};
pub use pipeline::{PipelineDesc, VulkanPipeline};
pub use record::{StorageBind, VulkanRecorder};

use crate::{HalError, Result};
use ash::vk;

pub(crate) const API: &str = "vulkan";

/// Turns a driver's status into an error that says what to do about it.
fn check<T>(result: ash::prelude::VkResult<T>, device: &str, call: &'static str) -> Result<T> {
    result.map_err(|e| match e {
        vk::Result::ERROR_DEVICE_LOST => HalError::DeviceLost {
            device: device.into(),
            what: call.into(),
        },
        vk::Result::ERROR_OUT_OF_DEVICE_MEMORY | vk::Result::ERROR_OUT_OF_HOST_MEMORY => {
            HalError::Driver {
                api: API,
                call,
                reason: format!("{device} is out of memory ({e:?}): use a smaller model"),
            }
        }
        e => HalError::Driver {
            api: API,
            call,
            reason: format!("{e:?} on {device}"),
        },
    })
}
