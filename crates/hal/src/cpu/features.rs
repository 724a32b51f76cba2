//! What this CPU can do, and how much of it may be used.

use super::API;
use crate::{HalError, Result};
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Instruction-set tiers, each including the ones before it of its architecture.
/// Tiers of two architectures do not compare: neither includes the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Advanced SIMD, which every AArch64 CPU has.
    Neon,
    /// NEON with dot products of signed bytes.
    Dotprod,
    /// NEON with dot products of unsigned by signed bytes, too.
    I8mm,
}

impl IsaLevel {
    const X86: &[IsaLevel] = &[
        IsaLevel::Portable,
        IsaLevel::Avx2,
        IsaLevel::Avx512,
        IsaLevel::Avx512Bf16,
        IsaLevel::Amx,
    ];
    const ARM: &[IsaLevel] = &[
        IsaLevel::Portable,
        IsaLevel::Neon,
        IsaLevel::Dotprod,
        IsaLevel::I8mm,
    ];

    /// Those of the architecture that this was built for, from low to high.
    pub const ALL: &[IsaLevel] = if cfg!(target_arch = "x86_64") {
        Self::X86
    } else if cfg!(target_arch = "aarch64") {
        Self::ARM
    } else {
        &[IsaLevel::Portable]
    };

    /// The name in [`crate::DeviceInfo::features`] and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            IsaLevel::Portable => "portable",
            IsaLevel::Avx2 => "avx2",
            IsaLevel::Avx512 => "avx512",
            IsaLevel::Avx512Bf16 => "avx512bf16",
            IsaLevel::Amx => "amx",
            IsaLevel::Neon => "neon",
            IsaLevel::Dotprod => "dotprod",
            IsaLevel::I8mm => "i8mm",
        }
    }
}

impl PartialOrd for IsaLevel {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        [Self::X86, Self::ARM].into_iter().find_map(|tiers| {
            let place = |level: &IsaLevel| tiers.iter().position(|l| l == level);
            Some(place(self)?.cmp(&place(other)?))
        })
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
    #[cfg(target_arch = "aarch64")]
    {
        use std::arch::is_aarch64_feature_detected as has;
        let neon = has!("neon");
        let dotprod = neon && has!("dotprod");
        if dotprod && has!("i8mm") {
            return IsaLevel::I8mm;
        }
        if dotprod {
            return IsaLevel::Dotprod;
        }
        if neon {
            return IsaLevel::Neon;
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

/// The tiers up to this one, and what it adds to byte products.
pub(crate) fn features_up_to(level: IsaLevel) -> BTreeSet<&'static str> {
    let tiers = IsaLevel::ALL.iter().filter(|l| **l <= level);
    tiers
        .map(|l| l.name())
        .chain(byte_products(level))
        .collect()
}

/// Dot products of bytes come with tiers from AVX-512 BF16 on. CPUs below have them or
/// not: one that is told to be a lower tier than it is has none.
#[cfg(target_arch = "x86_64")]
fn byte_products(level: IsaLevel) -> Option<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    let whole = level == detect();
    if level >= IsaLevel::Avx512Bf16 || level == IsaLevel::Avx512 && whole {
        return has!("avx512vnni").then_some("avx512vnni");
    }
    (level == IsaLevel::Avx2 && whole && has!("avxvnni")).then_some("avxvnni")
}

#[cfg(not(target_arch = "x86_64"))]
fn byte_products(_: IsaLevel) -> Option<&'static str> {
    None
}

pub(crate) fn cpu_name() -> String {
    std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| parse_name(&text))
        .unwrap_or_else(|| std::env::consts::ARCH.to_string())
}

/// The model's name; on ARM, where Linux gives none, the numbers that stand for
/// the maker and the core.
fn parse_name(cpuinfo: &str) -> Option<String> {
    let field = |name: &str| -> Option<&str> {
        let mut lines = cpuinfo.lines().filter_map(|l| l.split_once(':'));
        let (_, value) = lines.find(|(key, _)| key.trim() == name)?;
        Some(value.trim())
    };
    if let Some(name) = field("model name") {
        return Some(name.to_string());
    }
    let (maker, core) = (field("CPU implementer")?, field("CPU part")?);
    Some(format!("ARM implementer {maker} part {core}"))
}

/// Cores that this process may use: affinity and cgroup quota through the
/// standard library, hyperthreads counted once.
pub fn physical_threads() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, |n| n.get());
    match cores().len() {
        0 => logical,
        n => logical.min(n),
    }
}

/// The first logical CPU of every core that this process may use; empty where the
/// system does not say.
pub(super) fn cores() -> Vec<usize> {
    let allowed = rustix::thread::sched_getaffinity(None).ok();
    let mut seen = BTreeSet::new();
    let mut first = Vec::new();
    for cpu in 0..rustix::thread::CpuSet::MAX_CPU {
        if allowed.is_none_or(|set| !set.is_set(cpu)) {
            continue;
        }
        let dir = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
        if let Ok(siblings) = std::fs::read_to_string(format!("{dir}/thread_siblings_list"))
            && seen.insert(siblings.trim().to_string())
        {
            first.push(cpu);
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_cpu_of_either_architecture() {
        let x86 = "processor\t: 0\nmodel\t\t: 7\nmodel name\t: Some CPU @ 2 GHz\n";
        assert_eq!(parse_name(x86).as_deref(), Some("Some CPU @ 2 GHz"));
        let arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n";
        let name = parse_name(arm);
        assert_eq!(name.as_deref(), Some("ARM implementer 0x41 part 0xd0c"));
        assert_eq!(parse_name("processor\t: 0\n"), None);
    }

    #[test]
    fn tiers_compare_within_an_architecture_only() {
        for tiers in [IsaLevel::X86, IsaLevel::ARM] {
            assert!(tiers.is_sorted_by(|a, b| a < b));
        }
        for (x86, arm) in [
            (IsaLevel::Avx2, IsaLevel::Neon),
            (IsaLevel::Amx, IsaLevel::I8mm),
        ] {
            assert_eq!(x86.partial_cmp(&arm), None);
        }
        assert!(IsaLevel::ALL.contains(&detect()));
    }

    #[test]
    fn the_other_architectures_tiers_are_refused() {
        let foreign = if cfg!(target_arch = "aarch64") {
            IsaLevel::Avx2
        } else {
            IsaLevel::Neon
        };
        let e = choose(Some(foreign)).unwrap_err().to_string();
        assert!(
            e.contains(foreign.name()) && e.contains(detect().name()),
            "{e}"
        );
        let e = foreign.name().parse::<IsaLevel>().unwrap_err();
        assert!(e.contains("portable"), "{e}");
    }

    #[test]
    fn features_are_the_tiers_up_to_the_chosen_one() {
        for (n, level) in IsaLevel::ALL.iter().enumerate() {
            let features = features_up_to(*level);
            let tiers = features.iter().filter(|f| !f.ends_with("vnni"));
            assert_eq!(tiers.count(), n + 1);
            assert!(features.contains(level.name()));
            let low = ["portable", "avx2", "avx512"].contains(&level.name());
            if low && *level != detect() {
                assert!(!features.iter().any(|f| f.ends_with("vnni")), "{level}");
            }
        }
    }
}
