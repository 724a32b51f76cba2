use hal::vulkan::{VulkanDevice, VulkanOptions, probe};
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
        Ok(device) => Some(Arc::new(device)),
        Err(e) if std::env::var("CI").is_ok_and(|v| v == "true") => panic!("{e}"),
        Err(e) => {
            eprintln!("skipped: {e}");
            None
        }
    }
}
