//! The loader, an instance, and what the validation layer reports.

use super::API;
use crate::{HalError, Result};
use ash::vk;
use std::ffi::{CStr, c_void};
use std::sync::{Arc, Mutex};

const VALIDATION_LAYER: &CStr = c"VK_LAYER_KHRONOS_validation";

/// Messages of the validation layer, in order. Outlives the device, so that what
/// is said of leaks while the device goes away can still be read.
#[derive(Debug, Default)]
pub struct ValidationLog(Mutex<Vec<String>>);

impl ValidationLog {
    pub fn messages(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn push(&self, message: String) {
        self.0
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .push(message);
    }
}

unsafe extern "system" fn collect(
    _severity: vk::DebugUtilsMessageSeverityFlagsEXT,
    _types: vk::DebugUtilsMessageTypeFlagsEXT,
    data: *const vk::DebugUtilsMessengerCallbackDataEXT<'_>,
    log: *mut c_void,
) -> vk::Bool32 {
    // SAFETY: the layer passes the callback data and the pointer given at
    // creation, which `Instance` keeps alive until the instance is gone.
    let (text, log) = unsafe {
        let text = (*data)
            .message_as_c_str()
            .map(|m| m.to_string_lossy().into_owned());
        (text, &*log.cast_const().cast::<ValidationLog>())
    };
    log.push(text.unwrap_or_default());
    vk::FALSE
}

pub(super) struct Instance {
    pub entry: ash::Entry,
    pub raw: ash::Instance,
    messenger: Option<(ash::ext::debug_utils::Instance, vk::DebugUtilsMessengerEXT)>,
    /// Held for the callback, which has its address.
    pub log: Option<Arc<ValidationLog>>,
}

impl Instance {
    pub fn create(validation: bool) -> Result<Instance> {
        let no_driver = |reason: String| HalError::NoDriver { api: API, reason };
        // SAFETY: loading the system's Vulkan loader runs its initialisers, as
        // linking it would.
        let entry = unsafe { ash::Entry::load() }.map_err(|e| {
            no_driver(format!(
                "the Vulkan loader cannot be opened ({e}): install libvulkan1 (Debian, Ubuntu), vulkan-loader (Fedora) or vulkan-icd-loader (Arch)"
            ))
        })?;
        // SAFETY: a plain query of the loader.
        let version = unsafe { entry.try_enumerate_instance_version() }
            .ok()
            .flatten()
            .unwrap_or(vk::API_VERSION_1_0);
        if version < vk::API_VERSION_1_3 {
            return Err(no_driver(format!(
                "the loader speaks Vulkan {}.{}, 1.3 is needed: update it",
                vk::api_version_major(version),
                vk::api_version_minor(version)
            )));
        }

        let log = validation.then(|| Arc::new(ValidationLog::default()));
        let mut layers = Vec::new();
        let mut extensions = Vec::new();
        if validation {
            require_validation_layer(&entry)?;
            layers.push(VALIDATION_LAYER.as_ptr());
            extensions.push(ash::ext::debug_utils::NAME.as_ptr());
            extensions.push(ash::ext::validation_features::NAME.as_ptr());
        }
        let user_data = log
            .as_ref()
            .map_or(std::ptr::null(), Arc::as_ptr)
            .cast::<c_void>()
            .cast_mut();
        let messenger_info = || {
            vk::DebugUtilsMessengerCreateInfoEXT::default()
                .message_severity(
                    vk::DebugUtilsMessageSeverityFlagsEXT::WARNING
                        | vk::DebugUtilsMessageSeverityFlagsEXT::ERROR,
                )
                .message_type(vk::DebugUtilsMessageTypeFlagsEXT::VALIDATION)
                .pfn_user_callback(Some(collect))
                .user_data(user_data)
        };
        // The chained messenger hears what is said while the instance itself is
        // made and destroyed.
        let mut chained = messenger_info();
        let enabled = [vk::ValidationFeatureEnableEXT::SYNCHRONIZATION_VALIDATION];
        let mut features =
            vk::ValidationFeaturesEXT::default().enabled_validation_features(&enabled);
        let app = vk::ApplicationInfo::default()
            .application_name(c"espalier")
            .api_version(vk::API_VERSION_1_3);
        let mut info = vk::InstanceCreateInfo::default()
            .application_info(&app)
            .enabled_layer_names(&layers)
            .enabled_extension_names(&extensions);
        if validation {
            info = info.push_next(&mut features).push_next(&mut chained);
        }
        // SAFETY: every pointer of the create info outlives the call, and the
        // log outlives the instance.
        let raw = unsafe { entry.create_instance(&info, None) }.map_err(|e| match e {
            vk::Result::ERROR_INCOMPATIBLE_DRIVER => no_driver(
                "no Vulkan driver is installed: install the GPU vendor's, or mesa-vulkan-drivers"
                    .into(),
            ),
            e => no_driver(format!("vkCreateInstance answers {e:?}")),
        })?;
        let mut instance = Instance {
            entry,
            raw,
            messenger: None,
            log,
        };
        if validation {
            let loader = ash::ext::debug_utils::Instance::new(&instance.entry, &instance.raw);
            let info = messenger_info();
            // SAFETY: the instance is alive and enabled the extension.
            let handle =
                unsafe { loader.create_debug_utils_messenger(&info, None) }.map_err(|e| {
                    HalError::Driver {
                        api: API,
                        call: "vkCreateDebugUtilsMessengerEXT",
                        reason: format!("{e:?}"),
                    }
                })?;
            instance.messenger = Some((loader, handle));
        }
        Ok(instance)
    }

    pub fn physical_devices(&self) -> Result<Vec<vk::PhysicalDevice>> {
        // SAFETY: the instance is alive.
        unsafe { self.raw.enumerate_physical_devices() }.map_err(|e| HalError::NoDriver {
            api: API,
            reason: format!("vkEnumeratePhysicalDevices answers {e:?}: check the GPU's driver"),
        })
    }
}

fn require_validation_layer(entry: &ash::Entry) -> Result<()> {
    // SAFETY: a plain query of the loader.
    let layers = unsafe { entry.enumerate_instance_layer_properties() }.unwrap_or_default();
    let present = layers
        .iter()
        .any(|l| l.layer_name_as_c_str() == Ok(VALIDATION_LAYER));
    if present {
        Ok(())
    } else {
        Err(HalError::NoDriver {
            api: API,
            reason: "ESPALIER_VULKAN_VALIDATION is set but VK_LAYER_KHRONOS_validation is not installed: install vulkan-validationlayers or unset it".into(),
        })
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: every device of this instance holds it and is gone by now.
        unsafe {
            if let Some((loader, handle)) = self.messenger.take() {
                loader.destroy_debug_utils_messenger(handle, None);
            }
            self.raw.destroy_instance(None);
        }
    }
}
