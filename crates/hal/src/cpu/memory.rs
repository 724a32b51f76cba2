//! Host memory behind [`crate::Buffer`], and how much of it there is.

use super::{API, Counters};
use crate::{HalError, HostRegion, Mailbox, Result};
#[cfg(target_os = "linux")]
use rustix::mm::{Advice, madvise};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::any::Any;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

pub(crate) enum Memory {
    Owned {
        ptr: NonNull<u8>,
        mapped: usize,
        bytes: u64,
        counters: Arc<Counters>,
    },
    Imported {
        ptr: *const u8,
        _owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    },
}

// SAFETY: the memory is plain bytes; who may touch it when is decided by the
// pool (one recording at a time) and the hazard tracker.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// Bytes of a huge page where pages have 4 KiB.
const HUGE_PAGE: usize = 2 << 20;

fn map(bytes: usize) -> Option<NonNull<u8>> {
    let (flags, access) = (MapFlags::PRIVATE, ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: a new private anonymous mapping at an address the system picks.
    let ptr = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, access, flags) };
    NonNull::new(ptr.ok()?.cast())
}

/// Memory that asks for huge pages: a model is touched with a five-hundredth of the
/// faults, and streams with as many fewer misses of the TLB. What is behind the last
/// whole huge page stays in small ones, so that no more is resident than asked for.
fn map_huge(bytes: usize) -> Option<NonNull<u8>> {
    let all = map(bytes.checked_add(HUGE_PAGE)?)?.as_ptr();
    let before = all.align_offset(HUGE_PAGE);
    let ptr = all.wrapping_add(before);
    // SAFETY: the two ends are of the mapping just made, whole pages, and nobody's;
    // advice changes no contents.
    unsafe {
        if before > 0 {
            munmap(all.cast(), before).ok()?;
        }
        if before < HUGE_PAGE {
            munmap(ptr.wrapping_add(bytes).cast(), HUGE_PAGE - before).ok()?;
        }
        // A system without huge pages has small ones.
        #[cfg(target_os = "linux")]
        let _ = madvise(
            ptr.cast(),
            bytes / HUGE_PAGE * HUGE_PAGE,
            Advice::LinuxHugepage,
        );
    }
    NonNull::new(ptr)
}

impl Memory {
    /// Fresh zero pages, resident only once touched. `None` if the operating
    /// system refuses.
    pub fn zeroed(bytes: u64, counters: Arc<Counters>) -> Option<Self> {
        let mapped = usize::try_from(bytes)
            .ok()?
            .max(1)
            .checked_next_multiple_of(rustix::param::page_size())?;
        let ptr = match mapped >= 2 * HUGE_PAGE {
            true => map_huge(mapped),
            false => map(mapped),
        }?;
        counters.add(bytes);
        Some(Memory::Owned {
            ptr,
            mapped,
            bytes,
            counters,
        })
    }

    pub fn imported(region: &HostRegion) -> Self {
        let all: &[u8] = (*region.owner).as_ref();
        Memory::Imported {
            ptr: all[region.range.clone()].as_ptr(),
            _owner: region.owner.clone(),
        }
    }

    pub fn ptr(&self) -> *mut u8 {
        match self {
            Memory::Owned { ptr, .. } => ptr.as_ptr(),
            Memory::Imported { ptr, .. } => ptr.cast_mut(),
        }
    }

    pub fn writable(&self) -> bool {
        matches!(self, Memory::Owned { .. })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Memory::Owned {
            ptr,
            mapped,
            bytes,
            counters,
        } = self
        {
            // SAFETY: unmaps exactly what `zeroed` mapped, once.
            let _ = unsafe { munmap(ptr.as_ptr().cast(), *mapped) };
            counters.sub(*bytes);
        }
    }
}

pub(crate) struct CpuMailbox {
    /// The mutex orders the host's accesses; recordings copy while they run,
    /// when the host waits in `run`.
    pub(crate) bytes: Mutex<Vec<u8>>,
    len: usize,
}

impl CpuMailbox {
    /// `None` if the system has no such memory.
    pub fn new(len: usize) -> Option<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).ok()?;
        bytes.resize(len, 0);
        Some(CpuMailbox {
            bytes: Mutex::new(bytes),
            len,
        })
    }

    fn out_of_range(&self, what: &'static str, offset: usize, n: usize) -> HalError {
        HalError::OutOfRange {
            what,
            start: offset as u64,
            end: offset.saturating_add(n) as u64,
            len: self.len as u64,
        }
    }

    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Mailbox for CpuMailbox {
    fn len(&self) -> usize {
        self.len
    }

    fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        let mut guard = self.lock();
        let end = offset.checked_add(bytes.len());
        let out = end.and_then(|end| guard.get_mut(offset..end));
        out.ok_or_else(|| self.out_of_range("mailbox write", offset, bytes.len()))?
            .copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        let guard = self.lock();
        let end = offset.checked_add(out.len());
        let bytes = end.and_then(|end| guard.get(offset..end));
        out.copy_from_slice(
            bytes.ok_or_else(|| self.out_of_range("mailbox read", offset, out.len()))?,
        );
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

pub(crate) fn mailbox_of(m: &Arc<dyn Mailbox>) -> Result<&CpuMailbox> {
    m.as_any().downcast_ref().ok_or(HalError::WrongDevice {
        wanted: API,
        found: "other",
    })
}

fn meminfo(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with(field))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

fn read_u64(path: impl AsRef<std::path::Path>) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

pub(crate) fn total_memory() -> u64 {
    meminfo("MemTotal:").unwrap_or(u64::MAX)
}

/// Bytes this process can still take: what the system calls available, capped
/// by every memory cgroup (v2 or v1) above the process and by RLIMIT_AS.
pub fn available_memory() -> u64 {
    let mut free = meminfo("MemAvailable:").unwrap_or(u64::MAX);
    for (limit, usage) in cgroup_limits() {
        free = free.min(limit.saturating_sub(usage));
    }
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::As).current {
        let used = std::fs::read_to_string("/proc/self/statm")
            .ok()
            .and_then(|s| s.split_whitespace().next()?.parse::<u64>().ok())
            .map_or(0, |pages| pages * rustix::param::page_size() as u64);
        free = free.min(limit.saturating_sub(used));
    }
    free
}

fn cgroup_limits() -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let membership = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let (root, limit, usage) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max", "memory.current")
        } else if controllers.split(',').any(|c| c == "memory") {
            (
                "/sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            )
        } else {
            continue;
        };
        let mut dir = std::path::PathBuf::from(root);
        dir.push(path.trim_start_matches('/'));
        // Limits nest: the tightest of all ancestors holds.
        while dir.starts_with(root) {
            if let Some(l) = read_u64(dir.join(limit)) {
                let used = read_u64(dir.join(usage)).unwrap_or(0);
                found.push((l, used.saturating_sub(page_cache(&dir))));
            }
            if !dir.pop() {
                break;
            }
        }
    }
    found
}

/// Bytes of file pages that a cgroup is charged with: the system takes them back
/// before it refuses memory. A model file just mapped is of that kind.
fn page_cache(dir: &std::path::Path) -> u64 {
    let text = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let value = |name: &str| -> Option<u64> {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line?.trim().parse().ok()
    };
    // cgroup v1 counts the group alone without the prefix.
    let of = |name: &str| value(&format!("total_{name}")).or_else(|| value(name));
    of("inactive_file").unwrap_or(0) + of("active_file").unwrap_or(0)
}

/// Most resident memory of this process so far, in bytes (`VmHWM`).
pub fn peak_resident_memory() -> Option<u64> {
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
    fn large_memory_is_zero_writable_and_all_given_back() {
        let counters = Arc::<Counters>::default();
        for bytes in [1, 4096, HUGE_PAGE, 2 * HUGE_PAGE, 5 * HUGE_PAGE + 12_345] {
            let memory = Memory::zeroed(bytes as u64, counters.clone()).expect("memory");
            if bytes >= 2 * HUGE_PAGE {
                assert!((memory.ptr() as usize).is_multiple_of(HUGE_PAGE));
            }
            // SAFETY: the mapping has so many bytes and no other user.
            let all = unsafe { std::slice::from_raw_parts_mut(memory.ptr(), bytes) };
            assert!(all.iter().all(|b| *b == 0));
            all.fill(1);
            assert_eq!(counters.now(), bytes as u64);
            drop(memory);
            assert_eq!(counters.now(), 0);
        }
        assert!(Memory::zeroed(u64::MAX, counters).is_none());
    }

    #[test]
    fn reads_the_high_water_mark() {
        let text = "VmPeak:\t 9 kB\nVmHWM:\t   1234 kB\nVmRSS:\t 5 kB\n";
        assert_eq!(parse_peak(text), Some(1234 * 1024));
        assert_eq!(parse_peak("Name:\tx\n"), None);
    }
}
