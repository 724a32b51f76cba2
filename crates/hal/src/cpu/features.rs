//! What this CPU can do, and how much of it may be used.

use super::API;
use crate::{HalError, Result};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Instruction-set tiers, each including the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IsaLevel {
    Portable,
    /// AVX2, FMA, F16C.
    Avx2,
    /// AVX-512 F, BW, VL, DQ.
    Avx512,
    /// AVX-512 with BF16 dot products.
    Avx512Bf16,
    /// AMX tiles with BF16 dot products.
    Amx,
}

impl IsaLevel {
    pub const ALL: &[IsaLevel] = &[
        IsaLevel::Portable,
        IsaLevel::Avx2,
        IsaLevel::Avx512,
        IsaLevel::Avx512Bf16,
        IsaLevel::Amx,
    ];

    /// The name in [`crate::DeviceInfo::features`] and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            IsaLevel::Portable => "portable",
            IsaLevel::Avx2 => "avx2",
            IsaLevel::Avx512 => "avx512",
            IsaLevel::Avx512Bf16 => "avx512bf16",
            IsaLevel::Amx => "amx",
        }
    }
}

impl fmt::Display for IsaLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for IsaLevel {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        IsaLevel::ALL
            .iter()
            .copied()
            .find(|l| l.name() == s)
            .ok_or_else(|| {
                let names: Vec<_> = IsaLevel::ALL.iter().map(|l| l.name()).collect();
                format!(
                    "unknown instruction set '{s}': use one of {}",
                    names.join(", ")
                )
            })
    }
}

/// The highest tier of this machine.
pub fn detect() -> IsaLevel {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let avx2 = has!("avx2") && has!("fma") && has!("f16c");
        let avx512 =
            avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq");
        let bf16 = avx512 && has!("avx512bf16");
        if bf16 && amx_usable() {
            return IsaLevel::Amx;
        }
        if bf16 {
            return IsaLevel::Avx512Bf16;
        }
        if avx512 {
            return IsaLevel::Avx512;
        }
        if avx2 {
            return IsaLevel::Avx2;
        }
    }
    IsaLevel::Portable
}

/// AMX needs the CPU's bits and the kernel's permission for the tile state.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn amx_usable() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    if __cpuid(0).eax < 7 {
        return false;
    }
    let edx = __cpuid_count(7, 0).edx;
    let (bf16, tile) = (edx >> 22 & 1, edx >> 24 & 1);
    bf16 == 1 && tile == 1 && request_tile_data()
}

/// arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA): allows this process and
/// threads started later to use tiles. Kernels without the call refuse it.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn request_tile_data() -> bool {
    const SYS_ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: this system call changes only the process's permission to use the
    // tile state; rcx and r11 are declared as clobbered by `syscall`.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") SYS_ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn amx_usable() -> bool {
    false
}

pub(crate) fn choose(cap: Option<IsaLevel>) -> Result<IsaLevel> {
    let have = detect();
    match cap {
        None => Ok(have),
        Some(want) if want <= have => Ok(want),
        Some(want) => Err(HalError::NoDevice {
            api: API,
            reason: format!("{want} was asked for, but this CPU offers {have} at most"),
        }),
    }
}

pub(crate) fn features_up_to(level: IsaLevel) -> BTreeSet<&'static str> {
    IsaLevel::ALL
        .iter()
        .filter(|l| **l <= level)
        .map(|l| l.name())
        .collect()
}

pub(crate) fn cpu_name() -> String {
    std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|l| l.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_string())
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_string())
}

/// Cores that this process may use: affinity and cgroup quota through the
/// standard library, hyperthreads counted once.
pub fn physical_threads() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, |n| n.get());
    let allowed = rustix::thread::sched_getaffinity(None).ok();
    let mut cores = BTreeSet::new();
    for cpu in 0..rustix::thread::CpuSet::MAX_CPU {
        if allowed.is_none_or(|set| !set.is_set(cpu)) {
            continue;
        }
        let dir = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
        if let Ok(siblings) = std::fs::read_to_string(format!("{dir}/thread_siblings_list")) {
            cores.insert(siblings.trim().to_string());
        }
    }
    if cores.is_empty() {
        logical
    } else {
        logical.min(cores.len())
    }
}
