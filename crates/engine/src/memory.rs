//! What this process and its device have used.

use hal::Device;
use serde::Serialize;

/// Bytes, for reports.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MemoryUse {
    /// Most resident memory this process ever had; absent where the system does
    /// not tell.
    pub peak_rss: Option<u64>,
    /// Most memory ever allocated on the device.
    pub device_peak: u64,
}

impl MemoryUse {
    pub fn of(device: &dyn Device) -> Self {
        MemoryUse {
            peak_rss: hal::cpu::peak_resident_memory(),
            device_peak: device.allocated().1,
        }
    }
}
