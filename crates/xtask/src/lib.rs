//! Prebuilt kernels: what they were built from, and whether that still holds.

pub mod cuda;
pub mod prebuilt;
pub mod vulkan;

use std::path::{Path, PathBuf};

/// The workspace this tool was built from.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}
