use hal::vulkan::{VulkanDevice, VulkanOptions, probe};
use hal::{Device, DeviceInfo, DeviceKind};
use std::sync::Arc;

/// The first device under validation. Without one (or without the layer) the
/// test says so and passes, except where `CI=true` promises both.
pub fn device(options: VulkanOptions) -> Option<Arc<VulkanDevice>> {
    let options = VulkanOptions {
        validation: true,
        ..options
    };
    let opened = probe().and_then(|all| {
        let index = all.first().map_or(0, |d| d.index);
        VulkanDevice::open(index, &options)
    });
    match opened {
        Ok(device) => {
            check_subgroup(device.info());
            Some(Arc::new(device))
        }
        Err(e) if std::env::var("CI").is_ok_and(|v| v == "true") => panic!("{e}"),
        Err(e) => {
            eprintln!("skipped: {e}");
            None
        }
    }
}

/// Whoever asks lavapipe for vectors of so many bits must get them: tests at another
/// subgroup size than asked for would say nothing.
fn check_subgroup(info: &DeviceInfo) {
    let bits = std::env::var("LP_NATIVE_VECTOR_WIDTH");
    let bits = bits.ok().and_then(|bits| bits.parse::<u32>().ok());
    if let Some(bits) = bits.filter(|_| info.kind == DeviceKind::Software) {
        assert_eq!(info.subgroup, bits / 32, "{}", info.name);
    }
}
