//! The driver: finding it, its devices, its errors.

use super::API;
use crate::{DeviceInfo, DeviceKind, HalError, Result};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};
use std::collections::BTreeSet;
use std::ffi::{CStr, c_char, c_int};

/// Least driver version: what reads the PTX version of the prebuilt kernels.
const LEAST_DRIVER: c_int = 12010;

/// Least driver version whose graphs keep programmatic dependencies.
const EARLY_DRIVER: c_int = 12040;

/// Turns a driver's status into an error that says what to do about it.
pub(super) fn check(result: CUresult, device: &str, call: &'static str) -> Result<()> {
    use CUresult as R;
    match result {
        R::CUDA_SUCCESS => Ok(()),
        R::CUDA_ERROR_ILLEGAL_ADDRESS
        | R::CUDA_ERROR_LAUNCH_FAILED
        | R::CUDA_ERROR_LAUNCH_TIMEOUT
        | R::CUDA_ERROR_MISALIGNED_ADDRESS
        | R::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | R::CUDA_ERROR_ECC_UNCORRECTABLE
        | R::CUDA_ERROR_HARDWARE_STACK_ERROR => Err(HalError::DeviceLost {
            device: device.into(),
            what: format!("{call}: {}", text(result)),
        }),
        R::CUDA_ERROR_OUT_OF_MEMORY => Err(driver_error(
            call,
            format!("{device} is out of memory: use a smaller model"),
        )),
        _ => Err(driver_error(call, format!("{} on {device}", text(result)))),
    }
}

pub(super) fn driver_error(call: &'static str, reason: String) -> HalError {
    HalError::Driver {
        api: API,
        call,
        reason,
    }
}

/// The driver's name of a status.
pub(super) fn text(result: CUresult) -> String {
    let mut name: *const c_char = std::ptr::null();
    // SAFETY: the driver is loaded, since it gave the status; it fills the pointer
    // with a string of its own.
    let known = unsafe { sys::cuGetErrorName(result, &mut name) };
    if known != CUresult::CUDA_SUCCESS || name.is_null() {
        return format!("status {}", result as u32);
    }
    // SAFETY: a static string of the driver.
    unsafe { CStr::from_ptr(name) }
        .to_string_lossy()
        .into_owned()
}

/// Loads and initialises the driver.
pub(super) fn init() -> Result<()> {
    // SAFETY: only looks whether the library can be loaded.
    if !unsafe { sys::is_culib_present() } {
        return Err(HalError::NoDriver {
            api: API,
            reason: "libcuda.so.1 was not found: install the NVIDIA driver".into(),
        });
    }
    // SAFETY: no requirements; may be called any number of times.
    let started = unsafe { sys::cuInit(0) };
    match started {
        CUresult::CUDA_SUCCESS => {}
        CUresult::CUDA_ERROR_NO_DEVICE => {
            return Err(HalError::NoDevice {
                api: API,
                reason: "the driver finds no NVIDIA GPU".into(),
            });
        }
        other => {
            return Err(HalError::NoDriver {
                api: API,
                reason: format!(
                    "the driver does not start ({}): reinstall it or restart the machine",
                    text(other)
                ),
            });
        }
    }
    let mut version = 0;
    // SAFETY: fills a number.
    let got = unsafe { sys::cuDriverGetVersion(&mut version) };
    check(got, "the driver", "cuDriverGetVersion")?;
    if version < LEAST_DRIVER {
        return Err(HalError::NoDriver {
            api: API,
            reason: format!(
                "the driver is for CUDA {}, the kernels need {}: update the NVIDIA driver to 530 or later",
                dotted(version),
                dotted(LEAST_DRIVER)
            ),
        });
    }
    Ok(())
}

fn dotted(version: c_int) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// What kernels and the runtime ask of a device.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Compute capability, 10·major + minor.
    pub capability: u32,
    pub multiprocessors: u32,
    /// Most bytes of shared memory that a block may ask for.
    pub shared_bytes: u32,
    pub grid: [u32; 3],
    /// Whether recordings may let a kernel start before the one ahead has ended.
    pub early_starts: bool,
}

pub(super) struct Described {
    pub handle: sys::CUdevice,
    pub info: DeviceInfo,
    pub limits: Limits,
}

/// What the driver says of its device `index`.
pub(super) fn describe(index: usize) -> Result<Described> {
    let here = format!("device {index}");
    let ordinal = c_int::try_from(index).unwrap_or(c_int::MAX);
    let mut handle = 0;
    // SAFETY: fills a handle; an ordinal out of range is a status.
    let got = unsafe { sys::cuDeviceGet(&mut handle, ordinal) };
    check(got, &here, "cuDeviceGet")?;
    let mut name = [0 as c_char; 256];
    // SAFETY: fills at most 256 bytes.
    let got = unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), 256, handle) };
    check(got, &here, "cuDeviceGetName")?;
    name[255] = 0;
    // SAFETY: ends with zero.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }
        .to_string_lossy()
        .into_owned();
    let mut total = 0usize;
    // SAFETY: fills a number.
    let got = unsafe { sys::cuDeviceTotalMem_v2(&mut total, handle) };
    check(got, &here, "cuDeviceTotalMem")?;
    // SAFETY: plain bytes.
    let mut uuid: sys::CUuuid = unsafe { std::mem::zeroed() };
    // SAFETY: fills 16 bytes.
    let got = unsafe { sys::cuDeviceGetUuid_v2(&mut uuid, handle) };
    check(got, &here, "cuDeviceGetUuid")?;
    let mut version = 0;
    // SAFETY: fills a number.
    let got = unsafe { sys::cuDriverGetVersion(&mut version) };
    check(got, &here, "cuDriverGetVersion")?;
    let ask = |attribute: Attribute| -> Result<u32> {
        let mut value = 0;
        // SAFETY: fills a number.
        let got = unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, handle) };
        check(got, &here, "cuDeviceGetAttribute")?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    use Attribute as A;
    let capability = 10 * ask(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?
        + ask(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let integrated = ask(A::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0;
    let limits = Limits {
        capability,
        multiprocessors: ask(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes: ask(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        grid: [
            ask(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X)?,
            ask(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y)?,
            ask(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z)?,
        ],
        early_starts: capability >= 90 && version >= EARLY_DRIVER,
    };
    let info = DeviceInfo {
        api: API,
        index,
        name,
        driver: format!("CUDA {}", dotted(version)),
        // `c_char` has a sign on x86 and none on ARM.
        uuid: Some(hyphenated(&uuid.bytes.map(|b| b.to_ne_bytes()[0]))),
        kind: match integrated {
            true => DeviceKind::Integrated,
            false => DeviceKind::Discrete,
        },
        memory_total: total as u64,
        features: features(capability),
        threads: 1,
        subgroup: 32,
    };
    Ok(Described {
        handle,
        info,
        limits,
    })
}

/// What a device of a compute capability can do, as names for `fits`.
fn features(capability: u32) -> BTreeSet<&'static str> {
    let all = [
        (80, "sm_80"),
        (86, "sm_86"),
        (89, "sm_89"),
        (90, "sm_90"),
        (100, "sm_100"),
        (120, "sm_120"),
    ];
    let known = all.into_iter().filter(|(least, _)| capability >= *least);
    known.map(|(_, name)| name).collect()
}

fn hyphenated(bytes: &[u8; 16]) -> String {
    let mut out = String::with_capacity(36);
    for (i, b) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&i) {
            out.push('-');
        }
        out.push_str(&format!("{b:02x}"));
    }
    out
}

/// Devices of compute capability `least` (10·major + minor) or more, those with
/// most memory first.
///
/// # Errors
/// No driver, too old a driver, or devices of which none is new enough.
pub fn probe(least: u32) -> Result<Vec<DeviceInfo>> {
    init()?;
    let mut count = 0;
    // SAFETY: fills a number.
    let got = unsafe { sys::cuDeviceGetCount(&mut count) };
    check(got, "the driver", "cuDeviceGetCount")?;
    let mut usable = Vec::new();
    let mut refused = Vec::new();
    for index in 0..usize::try_from(count).unwrap_or(0) {
        let found = describe(index)?;
        if found.limits.capability >= least {
            usable.push(found.info);
        } else {
            refused.push(too_old(&found, least));
        }
    }
    if usable.is_empty() && !refused.is_empty() {
        return Err(HalError::NoDevice {
            api: API,
            reason: refused.join("; "),
        });
    }
    usable.sort_by_key(|d| (d.kind, std::cmp::Reverse(d.memory_total), d.index));
    Ok(usable)
}

fn too_old(found: &Described, least: u32) -> String {
    let c = found.limits.capability;
    format!(
        "{} has compute capability {}.{}, the kernels need {}.{}: use another backend",
        found.info.name,
        c / 10,
        c % 10,
        least / 10,
        least % 10
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_and_features_are_spelled_as_users_know_them() {
        let bytes: [u8; 16] = std::array::from_fn(|i| i as u8 * 17);
        assert_eq!(hyphenated(&bytes), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(dotted(12010), "12.1");
        assert!(features(90).contains("sm_90") && features(90).contains("sm_86"));
        assert!(!features(89).contains("sm_90"));
        assert!(features(75).is_empty());
    }
}
