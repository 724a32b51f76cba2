//! What this process and its devices have used.

use hal::Device;
use serde::Serialize;
use std::sync::Arc;

/// Bytes, for reports.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MemoryUse {
    /// Most resident memory this process ever had; absent where the system does
    /// not tell.
    pub peak_rss: Option<u64>,
    /// Most memory ever allocated on the device; of two, their sum.
    pub device_peak: u64,
}

impl MemoryUse {
    pub fn of<'d>(devices: impl Iterator<Item = &'d Arc<dyn Device>>) -> Self {
        MemoryUse {
            peak_rss: hal::cpu::peak_resident_memory(),
            device_peak: devices.map(|d| d.allocated().1).sum(),
        }
    }
}
