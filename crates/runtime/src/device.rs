//! Choosing a device: by name, or `auto`.

use crate::error::RuntimeError;
use hal::{Device, DeviceInfo, DeviceKind, HalError};
use planner::Program;
use registry::{Backend, OpenOptions, Registry};
use std::sync::Arc;

/// The selector that is not a backend.
pub const AUTO: &str = "auto";

/// A backend that could be opened, best first.
pub struct Candidate {
    pub backend: &'static Backend,
    pub info: DeviceInfo,
}

/// Where to run, and a line for each backend that was passed over.
pub struct Chosen {
    pub backend: &'static Backend,
    pub device: Arc<dyn Device>,
    /// The device of the program's second target, if it has one.
    pub second: Option<Arc<dyn Device>>,
    pub notes: Vec<String>,
}

impl Chosen {
    /// The devices of the program's targets.
    pub fn devices(&self) -> Vec<Arc<dyn Device>> {
        let all = std::iter::once(&self.device).chain(&self.second);
        all.cloned().collect()
    }
}

/// The options for the second of two devices: `--device` names one of the first's.
fn second_options(open: &OpenOptions) -> OpenOptions {
    OpenOptions {
        device: None,
        ..open.clone()
    }
}

/// The device that a backend would open, nothing opened.
pub fn find(backend: &'static Backend, open: &OpenOptions) -> Result<DeviceInfo, RuntimeError> {
    let devices = (backend.probe)(open)?;
    let index = open.pick(backend.api, &devices)?;
    let found = devices.into_iter().find(|d| d.index == index);
    // `pick` gives the index of one of them.
    found.ok_or_else(|| {
        RuntimeError::Hal(HalError::NoDevice {
            api: backend.api,
            reason: format!("device {index} of {} is gone", backend.name),
        })
    })
}

/// As [`find`], for a second backend.
pub(crate) fn find_second(
    backend: &'static Backend,
    open: &OpenOptions,
) -> Result<DeviceInfo, RuntimeError> {
    find(backend, &second_options(open))
}

/// The devices of a program's targets, of which the first is open.
pub fn with_second(
    first: Arc<dyn Device>,
    program: &Program,
    open: &OpenOptions,
) -> Result<Vec<Arc<dyn Device>>, RuntimeError> {
    let mut devices = vec![first];
    if let Some((target, _)) = &program.second {
        devices.push(target.backend.open_device(&second_options(open))?);
    }
    Ok(devices)
}

/// The devices that `auto` may use: a discrete GPU before an integrated one
/// before the CPU, never a software device, never the oracle.
pub fn auto_candidates(
    registry: &Registry,
    options: &OpenOptions,
) -> (Vec<Candidate>, Vec<String>) {
    let mut found = Vec::new();
    let mut notes = Vec::new();
    for backend in registry.backends().iter().filter(|b| b.auto) {
        // `--device` names a device of one API; others do not have it.
        let devices = match (backend.probe)(options) {
            Ok(devices) => devices,
            Err(e) => {
                notes.push(format!("{}: passed over: {e}", backend.name));
                continue;
            }
        };
        let real: Vec<DeviceInfo> = devices
            .into_iter()
            .filter(|d| d.kind != DeviceKind::Software)
            .collect();
        if real.is_empty() {
            notes.push(format!("{}: passed over: no hardware device", backend.name));
            continue;
        }
        let index = match options.pick(backend.api, &real) {
            Ok(index) => index,
            Err(e) => {
                notes.push(format!("{}: passed over: {e}", backend.name));
                continue;
            }
        };
        found.extend(
            real.into_iter()
                .filter(|d| d.index == index)
                .map(|info| Candidate { backend, info }),
        );
    }
    // A tree is before its parent, which it was made to surpass.
    found.sort_by_key(|c| {
        let chain = registry.chain(c.backend.name).unwrap_or_default();
        let root = chain.last().map_or(c.backend.name, |b| b.name);
        let depth = std::cmp::Reverse(chain.len());
        (c.info.kind, root, depth, c.backend.name)
    });
    (found, notes)
}

/// Turns down a candidate (too little memory, no kernel), with a reason.
pub type Fits<'a> =
    &'a mut dyn FnMut(&'static Backend, &Arc<dyn Device>) -> Result<(), RuntimeError>;

/// Opens the backend of that name, or the best that `auto` finds. `fits` may
/// turn down a candidate of `auto` (too little memory), with a reason.
pub fn choose(
    registry: &Registry,
    name: &str,
    options: &OpenOptions,
    fits: Fits<'_>,
) -> Result<Chosen, RuntimeError> {
    if name != AUTO {
        let backend = registry.backend(name)?;
        let device = backend.open_device(options)?;
        fits(backend, &device)?;
        return Ok(Chosen {
            backend,
            device,
            second: None,
            notes: Vec::new(),
        });
    }
    let (candidates, mut notes) = auto_candidates(registry, options);
    let mut last = None;
    for c in candidates {
        let opened = (c.backend.open)(options, c.info.index).map_err(RuntimeError::from);
        match opened.and_then(|d| fits(c.backend, &d).map(|()| d)) {
            Ok(device) => {
                return Ok(Chosen {
                    backend: c.backend,
                    device,
                    second: None,
                    notes,
                });
            }
            Err(e) => {
                notes.push(format!("{}: passed over: {e}", c.backend.name));
                last = Some(e);
            }
        }
    }
    Err(last.unwrap_or_else(|| {
        RuntimeError::Hal(HalError::NoDevice {
            api: AUTO,
            reason: notes.join("; "),
        })
    }))
}
