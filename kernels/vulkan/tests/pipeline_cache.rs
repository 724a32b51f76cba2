//! Compiled pipelines are kept in a folder; a file that is damaged or another driver's
//! is set aside with a line.

mod common;

use hal::vulkan::{PipelineDesc, VulkanDevice, VulkanOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes before what the driver gave: a mark, a length, a sum.
const HEADER: usize = 24;

fn open(folder: &Path) -> Option<Arc<VulkanDevice>> {
    common::device(VulkanOptions {
        pipeline_cache: Some(folder.into()),
        ..VulkanOptions::default()
    })
}

/// Makes a pipeline and closes the device.
fn use_once(device: Arc<VulkanDevice>) {
    let desc = PipelineDesc {
        name: "add",
        spirv: include_bytes!("../prebuilt/add.plain.spv"),
        buffers: 4,
        push_words: 8,
        spec: &[128, 128, 0],
    };
    drop(device.pipeline(&desc).expect("a pipeline"));
    assert_eq!(device.validation_messages(), Vec::<String>::new());
}

/// The one file of the folder.
fn only_file(folder: &Path) -> PathBuf {
    let all = std::fs::read_dir(folder).expect("a folder");
    let all: Vec<PathBuf> = all.flatten().map(|f| f.path()).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[test]
fn pipelines_are_kept_and_damaged_files_are_not_used() {
    let name = format!("espalier-pipelines-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    let Some(device) = open(&folder) else {
        return;
    };
    use_once(device);
    let file = only_file(&folder);
    let good = std::fs::read(&file).expect("what was kept");
    let device = open(&folder).expect("the device again");
    assert_eq!(device.pipeline_cache_notice(), None);
    use_once(device);

    let mut turned = good.clone();
    *turned.last_mut().expect("bytes") ^= 1;
    // Another uuid, under a sum that holds.
    let mut of_another = good.clone();
    of_another[HEADER + 16] ^= 1;
    let right = sum(&of_another[HEADER..]).to_le_bytes();
    of_another[16..HEADER].copy_from_slice(&right);
    for (bytes, wanted) in [
        (&turned[..], "damaged"),
        (&good[..good.len() - 1], "damaged"),
        (&good[..10], "cut off"),
        (b"something else, longer than a header", "no cache"),
        (&of_another[..], "another driver"),
    ] {
        std::fs::write(&file, bytes).expect("a file");
        let device = open(&folder).expect("the device again");
        let notice = device.pipeline_cache_notice().expect("a line");
        assert!(notice.contains(wanted), "{notice}");
        use_once(device);
        // It was made anew, and nothing is left beside it.
        assert_eq!(only_file(&folder), file);
        let device = open(&folder).expect("the device again");
        assert_eq!(device.pipeline_cache_notice(), None);
    }
    std::fs::remove_dir_all(&folder).expect("removed");
}
