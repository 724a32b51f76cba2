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
            peak_rss: peak_rss(),
            device_peak: device.allocated().1,
        }
    }
}

/// Most resident memory of this process so far, in bytes (`VmHWM`).
pub fn peak_rss() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    parse_peak(&text)
}

fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_high_water_mark() {
        let text = "VmPeak:\t 9 kB\nVmHWM:\t   1234 kB\nVmRSS:\t 5 kB\n";
        assert_eq!(parse_peak(text), Some(1234 * 1024));
        assert_eq!(parse_peak("Name:\tx\n"), None);
    }
}
