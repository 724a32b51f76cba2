//! Compiled pipelines on disk, one file for each device and driver.
//!
//! A file is [`MAGIC`], the length of what follows the header, its FNV-1a sum (u64,
//! little endian each), then what the driver gave. It is written beside its place and
//! renamed, so that no reader meets half of one; of two writers the last one stays.

use super::physical::Physical;
use ash::vk;
use std::io::Write;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"ESPVKPC1";
const HEADER: usize = 24;

/// More than this no driver gives; what is larger is not read.
const MOST_BYTES: u64 = 256 << 20;

pub(super) struct PipelineCache {
    pub handle: vk::PipelineCache,
    file: Option<PathBuf>,
    /// Bytes of what the file held.
    loaded: usize,
    /// Why a file that is there was not used.
    pub notice: Option<String>,
}

impl PipelineCache {
    /// The cache of `folder`, empty if there is none or it cannot be used.
    pub fn open(raw: &ash::Device, physical: &Physical, folder: Option<&Path>) -> PipelineCache {
        let file = folder.map(|f| f.join(file_name(physical)));
        let (data, notice) = match file.as_deref().map(|f| (f, read(f, physical))) {
            Some((_, Ok(data))) => (data, None),
            Some((f, Err(reason))) => {
                let line = format!("{}: {reason}; it is made anew", f.display());
                (Vec::new(), Some(line))
            }
            None => (Vec::new(), None),
        };
        let create = |data: &[u8]| {
            let info = vk::PipelineCacheCreateInfo::default().initial_data(data);
            // SAFETY: the device is alive; the data is what a driver of the same device
            // and version gave, or nothing.
            unsafe { raw.create_pipeline_cache(&info, None) }
        };
        let made = create(&data).or_else(|_| create(&[]));
        PipelineCache {
            // A device does without one, too.
            handle: made.unwrap_or(vk::PipelineCache::null()),
            file,
            loaded: data.len(),
            notice,
        }
    }

    /// Writes what pipelines were made since, if any, and destroys the cache.
    ///
    /// # Safety
    /// No pipeline is being made.
    pub unsafe fn close(&mut self, raw: &ash::Device) {
        let handle = std::mem::replace(&mut self.handle, vk::PipelineCache::null());
        if handle == vk::PipelineCache::null() {
            return;
        }
        if let Some(file) = &self.file {
            // SAFETY: a live cache.
            let data = unsafe { raw.get_pipeline_cache_data(handle) }.unwrap_or_default();
            // A cache that cannot be written costs time at the next start, no more.
            if data.len() > self.loaded {
                let _ = write(file, &data);
            }
        }
        // SAFETY: the caller's promise; the handle was taken out above.
        unsafe { raw.destroy_pipeline_cache(handle, None) };
    }
}

fn file_name(physical: &Physical) -> String {
    let id: String = (physical.cache_uuid.iter())
        .map(|b| format!("{b:02x}"))
        .collect();
    format!(
        "vulkan-{:04x}-{:04x}-{id}.bin",
        physical.vendor, physical.device
    )
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What the driver gave once; nothing if there is no file.
fn read(file: &Path, physical: &Physical) -> Result<Vec<u8>, String> {
    let size = match std::fs::metadata(file) {
        Ok(m) => m.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(format!("cannot be read ({e})")),
    };
    if size > MOST_BYTES {
        return Err(format!("{size} bytes are no cache of pipelines"));
    }
    let bytes = std::fs::read(file).map_err(|e| format!("cannot be read ({e})"))?;
    unpack(&bytes, physical).map_err(String::from)
}

fn unpack(bytes: &[u8], physical: &Physical) -> Result<Vec<u8>, &'static str> {
    let Some((header, data)) = bytes.split_at_checked(HEADER) else {
        return Err("the file is cut off");
    };
    let word = |at: usize| header[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    if &header[..8] != MAGIC {
        return Err("this is no cache of pipelines");
    }
    if word(8) != data.len() as u64 || word(16) != fnv(data) {
        return Err("the file is damaged");
    }
    // As the specification lays it out: length, version, vendor, device, uuid.
    let word = |at: usize| {
        data.get(at..at + 4)?
            .try_into()
            .ok()
            .map(u32::from_le_bytes)
    };
    let same = word(4) == Some(1)
        && word(8) == Some(physical.vendor)
        && word(12) == Some(physical.device)
        && data.get(16..32) == Some(&physical.cache_uuid[..]);
    match same {
        true => Ok(data.to_vec()),
        false => Err("another driver wrote it"),
    }
}

fn write(file: &Path, data: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let temporary = file.with_extension(format!("{}.part", std::process::id()));
    let written = std::fs::File::create(&temporary).and_then(|mut f| {
        f.write_all(MAGIC)?;
        f.write_all(&(data.len() as u64).to_le_bytes())?;
        f.write_all(&fnv(data).to_le_bytes())?;
        f.write_all(data)?;
        f.sync_all()
    });
    written
        .and_then(|()| std::fs::rename(&temporary, file))
        .inspect_err(|_| {
            let _ = std::fs::remove_file(&temporary);
        })
}
