//! What the environment may change of a device.

use std::path::PathBuf;

#[derive(Clone, Debug, Default)]
pub struct VulkanOptions {
    /// Runs under the Khronos validation layer; an error if it is not installed.
    pub validation: bool,
    /// Moves host data through staging memory even where the host could write
    /// the device's memory in place.
    pub staging: bool,
    /// In place of [`super::Limits::reduce_lanes`], to try what other devices do.
    pub reduce_lanes: Option<u32>,
    /// In place of [`super::Limits::coopmat_tile`].
    pub coopmat_tile: Option<[u32; 3]>,
    /// In place of [`super::Limits::gemv`].
    pub gemv: Option<[u32; 3]>,
    /// In place of [`super::Limits::matrix_range`].
    pub matrix_range: Option<u64>,
    /// Folder that keeps compiled pipelines from one process to the next.
    pub pipeline_cache: Option<PathBuf>,
}

impl VulkanOptions {
    /// `ESPALIER_VULKAN_VALIDATION` and `ESPALIER_VULKAN_STAGING`, each `1` for on,
    /// `ESPALIER_VULKAN_LANES`, a number, `ESPALIER_VULKAN_COOPMAT` and
    /// `ESPALIER_VULKAN_GEMV`, three of them with commas between; `ESPALIER_VULKAN_CACHE`, the folder of compiled
    /// pipelines, empty for none, by default `espalier` in the user's cache folder.
    pub fn from_env() -> Self {
        let on = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty() && v != "0");
        VulkanOptions {
            validation: on("ESPALIER_VULKAN_VALIDATION"),
            staging: on("ESPALIER_VULKAN_STAGING"),
            reduce_lanes: std::env::var("ESPALIER_VULKAN_LANES")
                .ok()
                .and_then(|v| v.parse().ok()),
            coopmat_tile: numbers("ESPALIER_VULKAN_COOPMAT"),
            gemv: numbers("ESPALIER_VULKAN_GEMV"),
            matrix_range: None,
            pipeline_cache: pipeline_cache(),
        }
    }
}

/// Whether `ESPALIER_VULKAN_WITHOUT` lists an optional feature: devices are then taken
/// to lack it.
pub(super) fn is_switched_off(feature: &str) -> bool {
    let list = std::env::var("ESPALIER_VULKAN_WITHOUT").unwrap_or_default();
    list.split(',').any(|name| name.trim() == feature)
}

/// Numbers with commas between.
fn numbers<const N: usize>(name: &str) -> Option<[u32; N]> {
    let value = std::env::var(name).ok()?;
    let all: Vec<u32> = value.split(',').filter_map(|n| n.parse().ok()).collect();
    all.try_into().ok()
}

fn pipeline_cache() -> Option<PathBuf> {
    let named = |name| std::env::var_os(name).filter(|v| !v.is_empty());
    if std::env::var_os("ESPALIER_VULKAN_CACHE").is_some() {
        return named("ESPALIER_VULKAN_CACHE").map(PathBuf::from);
    }
    let own = named("XDG_CACHE_HOME").map(PathBuf::from);
    let own = own.or_else(|| named("HOME").map(|h| PathBuf::from(h).join(".cache")));
    own.map(|folder| folder.join("espalier"))
}
