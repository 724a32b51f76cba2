//! Backends: a tree's device API, its parent, and how to open a device.

use crate::error::RegistryError;
use hal::cpu::{CpuOptions, IsaLevel};
use hal::{Device, DeviceInfo, HalError};
use std::sync::Arc;

/// What the user said about devices.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// `--device`: an index or a uuid, of the backend's API.
    pub device: Option<String>,
    pub threads: Option<usize>,
    pub isa: Option<IsaLevel>,
    /// Pins CPU threads to cores.
    pub pin: bool,
}

impl OpenOptions {
    /// What a tree that runs on the CPU opens its device with.
    pub fn cpu(&self) -> CpuOptions {
        CpuOptions {
            threads: self.threads,
            isa: self.isa,
            pin: self.pin,
        }
    }

    /// The device of this list that the options name, or the first.
    pub fn pick(&self, api: &'static str, devices: &[DeviceInfo]) -> Result<usize, HalError> {
        let none = |reason: String| HalError::NoDevice { api, reason };
        let Some(want) = &self.device else {
            return match devices.first() {
                Some(d) => Ok(d.index),
                None => Err(none("the driver lists no device".into())),
            };
        };
        let found = devices
            .iter()
            .find(|d| d.index.to_string() == *want || d.uuid.as_deref() == Some(want));
        found.map(|d| d.index).ok_or_else(|| {
            let have: Vec<_> = devices
                .iter()
                .map(|d| format!("{} ({})", d.index, d.name))
                .collect();
            let have = if have.is_empty() {
                "none".into()
            } else {
                have.join(", ")
            };
            none(format!("--device {want} was asked for; present: {have}"))
        })
    }
}

/// Opens the device of an index that `probe` gave.
pub type OpenFn = fn(&OpenOptions, usize) -> Result<Arc<dyn Device>, HalError>;

/// One kernel tree.
pub struct Backend {
    pub name: &'static str,
    /// Driver API of its devices.
    pub api: &'static str,
    /// A tree whose kernels run on the same devices; looked in second.
    pub parent: Option<&'static str>,
    /// Whether `auto` may choose it. The oracle says no.
    pub auto: bool,
    /// Whether its devices exist as hardware alone: no driver emulates them, so
    /// machines that test every tree may lack one. A driver that has a software
    /// device, as Vulkan's lavapipe, must be there.
    pub hardware_only: bool,
    /// KV cache schemes it has kernels for, the default first.
    pub kv: &'static [&'static str],
    /// Most tokens of a step unless the user says otherwise: prompts are read in
    /// chunks of so many.
    pub rows: usize,
    /// Devices that could be opened, best first. An absent driver is an error
    /// that says so, an empty list means a driver without devices.
    pub probe: fn(&OpenOptions) -> Result<Vec<DeviceInfo>, HalError>,
    /// Opens the device of that index.
    pub open: OpenFn,
    pub file: &'static str,
}

inventory::collect!(Backend);

impl Backend {
    /// Every registered backend by name; a name given twice is an error.
    pub fn all() -> Result<Vec<&'static Backend>, RegistryError> {
        let mut all: Vec<_> = inventory::iter::<Backend>().collect();
        all.sort_by_key(|b| b.name);
        for pair in all.windows(2) {
            if pair[0].name == pair[1].name {
                return Err(RegistryError::DuplicateBackend {
                    name: pair[0].name,
                    first: pair[0].file,
                    second: pair[1].file,
                });
            }
        }
        Ok(all)
    }

    /// Opens the device that the options name, or this backend's best.
    pub fn open_device(&self, options: &OpenOptions) -> Result<Arc<dyn Device>, HalError> {
        let devices = (self.probe)(options)?;
        let index = options.pick(self.api, &devices)?;
        (self.open)(options, index)
    }
}
