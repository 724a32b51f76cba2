//! Where figures come from: hardware, software, environment.

use formats::TensorStore;
use hal::{DeviceInfo, DeviceKind};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    pub backend: String,
    pub api: String,
    pub device: String,
    pub driver: String,
    /// `discrete`, `integrated`, `cpu` or `software`.
    pub kind: String,
    pub uuid: Option<String>,
    /// That run kernels, on a CPU.
    pub threads: usize,
    /// Capabilities of the device that kernels may ask for.
    pub features: Vec<String>,
    pub memory_bytes: u64,
    pub host: Host,
}

/// The machine that the device is in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    pub cpu: Option<String>,
    pub logical_cpus: usize,
    pub cpu_flags: Vec<String>,
    pub governor: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Software {
    pub version: String,
    /// Of the sources in the folder where it ran, if they are these.
    pub commit: Option<String>,
    pub dirty: Option<bool>,
    pub compiler: Option<String>,
    pub target: Option<String>,
    pub profile: Option<String>,
    pub rustflags: Option<String>,
    pub os: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// Variables that change how programs like these run.
    pub variables: BTreeMap<String, String>,
    /// Runnable processes over the last minute, as the system counts them.
    pub load_before: Option<f64>,
    pub load_after: Option<f64>,
}

impl Hardware {
    pub fn of(backend: &str, info: &DeviceInfo) -> Self {
        Hardware {
            backend: backend.into(),
            api: info.api.into(),
            device: info.name.clone(),
            driver: info.driver.clone(),
            kind: match info.kind {
                DeviceKind::Discrete => "discrete",
                DeviceKind::Integrated => "integrated",
                DeviceKind::Cpu => "cpu",
                DeviceKind::Software => "software",
            }
            .into(),
            uuid: info.uuid.clone(),
            threads: info.threads,
            features: info.features.iter().map(|f| f.to_string()).collect(),
            memory_bytes: info.memory_total,
            host: Host::find(),
        }
    }
}

impl Host {
    fn find() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |names: &[&str]| -> Option<String> {
            let line = info
                .lines()
                .find(|l| names.iter().any(|n| l.starts_with(n)))?;
            Some(line.split_once(':')?.1.trim().to_string())
        };
        let flags = field(&["flags", "Features"]).unwrap_or_default();
        let mut flags: Vec<String> = flags.split_whitespace().map(String::from).collect();
        flags.sort_unstable();
        Host {
            cpu: field(&["model name"]),
            logical_cpus: std::thread::available_parallelism().map_or(1, |n| n.get()),
            cpu_flags: flags,
            governor: line_of("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        }
    }
}

fn line_of(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.lines().next()?.trim().to_string())
}

impl Software {
    pub fn find() -> Self {
        let built = |s: &str| Some(s.to_string()).filter(|s| !s.is_empty());
        // A commit of another repository would be worse than none.
        let top = git(&["rev-parse", "--show-toplevel"]);
        let ours = top.is_some_and(|t| Path::new(&t).join("crates/bench-run/Cargo.toml").exists());
        let git = |args: &[&str]| git(args).filter(|_| ours);
        Software {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: git(&["rev-parse", "HEAD"]).or_else(|| built(env!("BENCH_COMMIT"))),
            dirty: git(&["status", "--porcelain"]).map(|s| !s.is_empty()),
            compiler: built(env!("BENCH_COMPILER")),
            target: built(env!("BENCH_TARGET")),
            profile: built(concat!(
                env!("BENCH_PROFILE"),
                ", opt-level ",
                env!("BENCH_OPT_LEVEL")
            )),
            rustflags: built(env!("BENCH_RUSTFLAGS")).map(|f| short(&f)),
            os: line_of("/proc/version").map(|v| {
                // The rest says who compiled the kernel.
                let words: Vec<_> = v.split_whitespace().take(3).collect();
                words.join(" ")
            }),
        }
    }
}

const VARIABLES: &[&str] = &[
    "CUDA_",
    "ESPALIER_",
    "GGML_",
    "GOMP_",
    "HIP_",
    "HSA_",
    "KMP_",
    "LLAMA_",
    "MALLOC_",
    "MESA_",
    "OMP_",
    "RADV_",
    "RAYON_",
    "ROCR_",
    "VK_",
];

impl Environment {
    pub fn before() -> Self {
        let relevant = |name: &str| VARIABLES.iter().any(|v| name.starts_with(v));
        Environment {
            variables: std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .filter(|(name, _)| relevant(name))
                .map(|(name, value)| (name, short(&value)))
                .collect(),
            load_before: load(),
            load_after: None,
        }
    }

    pub fn after(&mut self) {
        self.load_after = load();
    }
}

fn load() -> Option<f64> {
    line_of("/proc/loadavg")?.split(' ').next()?.parse().ok()
}

/// Artifacts travel: they keep the names of files, not where they were.
pub fn short(text: &str) -> String {
    let words = text.split_whitespace();
    let short = words.map(|w| match w.rsplit_once('/') {
        Some((_, name)) if !name.is_empty() => name,
        _ => w,
    });
    short.collect::<Vec<_>>().join(" ")
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_string())
}

/// Bytes at each end of a tensor that a fingerprint covers: all of a large model
/// would take longer than the run.
const ENDS: usize = 4096;

/// A name for a model's weights: equal for equal files, whatever they are called.
pub fn fingerprint(tensors: &TensorStore) -> String {
    let mut hash = Sha256::new();
    let stored: Vec<_> = match tensors.stored().len() {
        0 => tensors.iter().collect(),
        _ => tensors.stored().collect(),
    };
    for t in stored {
        hash.update(format!(
            "{} {} {:?}\n",
            t.info.name, t.info.stored, t.info.shape
        ));
        let rows = t.info.shape.first().copied().unwrap_or(1);
        let row = (t.info.bytes as usize / rows.max(1)).max(1);
        let few = ENDS.div_ceil(row).min(rows);
        for part in [t.rows(0..few), t.rows(rows - few..rows)] {
            hash.update(&part[..part.len().min(ENDS)]);
        }
    }
    let digest = hash.finalize();
    let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// Now, in UTC.
pub fn timestamp() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    rfc3339(now.map_or(0, |d| d.as_secs()))
}

fn rfc3339(unix: u64) -> String {
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    // Days since 0000-03-01, in eras of 400 years.
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    format!(
        "{:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}Z",
        era * 400 + year + carry,
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cut_to_names() {
        assert_eq!(
            short("/a/b/llama-bench -m /c/x.gguf -t 2"),
            "llama-bench -m x.gguf -t 2"
        );
    }

    #[test]
    fn dates_are_right() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_226_620, "2026-11-21T02:03:40Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(unix), text);
        }
    }
}
