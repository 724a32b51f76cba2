//! `engine doctor`: what this machine has, and what to do about what is missing.

use crate::args::SECOND;
use crate::cmd::Context;
use crate::output::{self, Exit};
use clap::Args;
use hal::{DeviceInfo, DeviceKind, HalError};
use registry::{Backend, OpenOptions, Registry};
use runtime::human;
use serde::Serialize;
use std::fmt::Write;

#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    cpu: Cpu,
    memory: HostMemory,
    device_files: Vec<DeviceFile>,
    backends: Vec<BackendReport>,
    auto: Auto,
    divide: Divide,
}

#[derive(Serialize)]
struct Cpu {
    arch: &'static str,
    isa: &'static str,
    features: Vec<&'static str>,
    /// Logical processors of this process, by affinity and cgroup quota.
    processors: usize,
    /// Threads that kernels use by default.
    threads: usize,
}

#[derive(Serialize)]
struct HostMemory {
    /// What this process can still take: system, cgroups and limits together.
    available: u64,
}

/// A file through which GPU drivers are reached.
#[derive(Serialize)]
struct DeviceFile {
    path: String,
    usable: bool,
    advice: Option<String>,
}

#[derive(Serialize)]
struct BackendReport {
    name: &'static str,
    api: &'static str,
    parent: Option<&'static str>,
    kernels: usize,
    auto: bool,
    kv: &'static [&'static str],
    devices: Vec<Device>,
    problem: Option<String>,
    advice: Option<String>,
}

#[derive(Serialize)]
struct Device {
    index: usize,
    name: String,
    kind: &'static str,
    driver: String,
    uuid: Option<String>,
    memory_total: u64,
    threads: usize,
    subgroup: u32,
    features: Vec<&'static str>,
}

#[derive(Serialize)]
struct Auto {
    backend: Option<&'static str>,
    device: Option<String>,
    why: String,
    notes: Vec<String>,
}

/// What `--gpu-layers` and `--cpu-experts` would leave parts of a model to.
#[derive(Serialize)]
struct Divide {
    backend: &'static str,
    device: Option<String>,
    problem: Option<String>,
}

pub fn doctor(context: &Context, args: &DoctorArgs) -> anyhow::Result<Exit> {
    let registry = Registry::collect()?;
    let options = context.global.open_options();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        cpu: cpu(),
        memory: HostMemory {
            available: hal::cpu::available_memory(),
        },
        device_files: device_files(),
        backends: registry
            .backends()
            .iter()
            .map(|b| backend(b, &registry, &options))
            .collect(),
        auto: auto(&registry, &options),
        divide: divide(&registry, &options),
    };
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&text(&report)?)?;
    }
    Ok(Exit::Done)
}

fn cpu() -> Cpu {
    let isa = hal::cpu::detect();
    let levels = hal::cpu::IsaLevel::ALL.iter().filter(|l| **l <= isa);
    Cpu {
        arch: std::env::consts::ARCH,
        isa: isa.name(),
        features: levels.map(|l| l.name()).collect(),
        processors: std::thread::available_parallelism().map_or(1, |n| n.get()),
        threads: hal::cpu::physical_threads(),
    }
}

fn backend(b: &Backend, registry: &Registry, options: &OpenOptions) -> BackendReport {
    let probed = (b.probe)(options);
    let (devices, problem, advice) = match probed {
        Ok(devices) if devices.is_empty() => (
            devices,
            Some("the driver is there but lists no device".into()),
            Some(
                "install the driver of the GPU, or check the permissions of its device files"
                    .into(),
            ),
        ),
        Ok(devices) => (devices, None, None),
        Err(e) => (Vec::new(), Some(e.to_string()), advice(&e)),
    };
    BackendReport {
        name: b.name,
        api: b.api,
        parent: b.parent,
        kernels: registry
            .entries()
            .filter(|e| e.key.backend == b.name)
            .count(),
        auto: b.auto,
        kv: b.kv,
        devices: devices.into_iter().map(device).collect(),
        problem,
        advice,
    }
}

/// Drivers say themselves what they lack; this adds what to do where they do not.
fn advice(error: &HalError) -> Option<String> {
    let text = match error {
        HalError::NoDriver { .. } => {
            "install or update that driver; other backends work without it"
        }
        HalError::NoDevice { .. } => "check that the device is there and that this user may use it",
        _ => return None,
    };
    Some(text.into())
}

fn device(d: DeviceInfo) -> Device {
    Device {
        index: d.index,
        kind: kind(d.kind),
        name: d.name,
        driver: d.driver,
        uuid: d.uuid,
        memory_total: d.memory_total,
        threads: d.threads,
        subgroup: d.subgroup,
        features: d.features.into_iter().collect(),
    }
}

fn kind(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Discrete => "discrete",
        DeviceKind::Integrated => "integrated",
        DeviceKind::Cpu => "cpu",
        DeviceKind::Software => "software",
    }
}

fn auto(registry: &Registry, options: &OpenOptions) -> Auto {
    let (candidates, notes) = runtime::device::auto_candidates(registry, options);
    match candidates.first() {
        Some(c) => Auto {
            backend: Some(c.backend.name),
            device: Some(c.info.name.clone()),
            why: format!(
                "best of {} candidate{}: a discrete GPU goes before an integrated one, that before the CPU",
                candidates.len(),
                if candidates.len() == 1 { "" } else { "s" }
            ),
            notes,
        },
        None => Auto {
            backend: None,
            device: None,
            why: "no backend that `auto` may choose has a device".into(),
            notes,
        },
    }
}

fn divide(registry: &Registry, options: &OpenOptions) -> Divide {
    let open = OpenOptions {
        device: None,
        ..options.clone()
    };
    let found = (registry
        .backend(SECOND)
        .map_err(runtime::RuntimeError::from))
    .and_then(|backend| runtime::device::find(backend, &open));
    let (device, problem) = match found {
        Ok(info) => (Some(info.name), None),
        Err(e) => (None, Some(e.to_string())),
    };
    Divide {
        backend: SECOND,
        device,
        problem,
    }
}

/// Render nodes and vendor device files of Linux, and whether they open.
fn device_files() -> Vec<DeviceFile> {
    let mut paths: Vec<String> = Vec::new();
    for (dir, prefix) in [("/dev/dri", "renderD"), ("/dev", "kfd"), ("/dev", "nvidia")] {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
        let wanted = names.filter(|n| {
            n.strip_prefix(prefix)
                .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
        });
        paths.extend(wanted.map(|n| format!("{dir}/{n}")));
    }
    paths.sort();
    paths.into_iter().map(device_file).collect()
}

fn device_file(path: String) -> DeviceFile {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path);
    let advice = match &opened {
        Ok(_) => None,
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Some(
            "this user may not open it: add the user to the group that owns it (often `render` or `video`) and log in again"
                .into(),
        ),
        Err(e) => Some(format!("it cannot be opened: {e}")),
    };
    DeviceFile {
        usable: opened.is_ok(),
        path,
        advice,
    }
}

fn text(r: &Report) -> Result<String, std::fmt::Error> {
    let mut s = String::new();
    writeln!(s, "espalier {}", r.version)?;
    writeln!(
        s,
        "CPU: {}, kernels up to {} ({}), {} processors, {} threads by default",
        r.cpu.arch,
        r.cpu.isa,
        r.cpu.features.join(" "),
        r.cpu.processors,
        r.cpu.threads
    )?;
    writeln!(
        s,
        "memory: {} available to this process",
        human(r.memory.available)
    )?;
    if r.device_files.is_empty() {
        writeln!(s, "GPU device files: none")?;
    }
    for f in &r.device_files {
        let state = if f.usable { "usable" } else { "not usable" };
        writeln!(s, "GPU device file {}: {state}", f.path)?;
        if let Some(advice) = &f.advice {
            writeln!(s, "  -> {advice}")?;
        }
    }
    for b in &r.backends {
        let parent = b
            .parent
            .map_or(String::new(), |p| format!(", inherits {p}"));
        writeln!(
            s,
            "\nbackend {} (api {}, {} kernels{parent}, KV cache in {})",
            b.name,
            b.api,
            b.kernels,
            b.kv.join(" ")
        )?;
        for d in &b.devices {
            writeln!(s, "  device {}: {} [{}]", d.index, d.name, d.kind)?;
            writeln!(
                s,
                "    driver {}, memory {}, {} threads, subgroup {}",
                d.driver,
                human(d.memory_total),
                d.threads,
                d.subgroup
            )?;
            if let Some(uuid) = &d.uuid {
                writeln!(s, "    uuid {uuid}")?;
            }
            writeln!(s, "    features {}", d.features.join(" "))?;
        }
        if let Some(problem) = &b.problem {
            writeln!(s, "  {problem}")?;
        }
        if let Some(advice) = &b.advice {
            writeln!(s, "  -> {advice}")?;
        }
    }
    match (r.auto.backend, &r.auto.device) {
        (Some(backend), Some(device)) => {
            writeln!(s, "\nauto: {backend} on {device}, {}", r.auto.why)?;
        }
        _ => writeln!(s, "\nauto: {}", r.auto.why)?,
    }
    for note in &r.auto.notes {
        writeln!(s, "  {note}")?;
    }
    let d = &r.divide;
    let on = d.device.as_ref().or(d.problem.as_ref());
    writeln!(
        s,
        "what --gpu-layers and --cpu-experts keep off a GPU runs on {}: {}",
        d.backend,
        on.map_or("", String::as_str)
    )?;
    Ok(s)
}
