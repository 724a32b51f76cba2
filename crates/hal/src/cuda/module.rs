//! Modules: PTX that the driver compiles, and the functions in it.

use super::API;
use super::device::Shared;
use super::driver::{driver_error, text};
use crate::{HalError, Result};
use cudarc::driver::sys::{self, CUjit_option, CUresult};
use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

/// Compiled kernels of one source.
pub struct CudaModule {
    pub(super) shared: Arc<Shared>,
    name: String,
    handle: sys::CUmodule,
    entries: BTreeMap<String, Entry>,
}

/// What a PTX text says of one of its kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Bytes of its one parameter.
    params: usize,
    /// Whether it waits by itself for the kernel ahead, and so may start early.
    waits: bool,
}

// SAFETY: a handle; the driver's calls on it are safe from any thread.
unsafe impl Send for CudaModule {}
// SAFETY: as above.
unsafe impl Sync for CudaModule {}

/// One kernel.
#[derive(Clone)]
pub struct CudaFunction {
    pub(super) module: Arc<CudaModule>,
    pub(super) handle: sys::CUfunction,
    pub(super) name: String,
    /// Bytes of its one parameter, a struct.
    pub(super) params: usize,
    /// Whether it may start before the kernel ahead has ended.
    pub(super) waits: bool,
}

// SAFETY: as for the module.
unsafe impl Send for CudaFunction {}
// SAFETY: as above.
unsafe impl Sync for CudaFunction {}

/// Entries of a PTX text with the bytes of their parameters, where they have one.
pub(super) fn entries(ptx: &str) -> BTreeMap<String, Entry> {
    let mut found = BTreeMap::new();
    for piece in ptx.split(".entry ").skip(1) {
        let Some((name, rest)) = piece.split_once('(') else {
            continue;
        };
        let list = rest.split_once(')').map_or("", |(list, _)| list);
        let size = list
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'))
            .and_then(|(n, _)| n.parse().ok());
        let entry = Entry {
            params: size.unwrap_or(0),
            waits: rest.contains("griddepcontrol.wait"),
        };
        found.insert(name.trim().to_string(), entry);
    }
    found
}

impl CudaModule {
    pub(super) fn load(shared: &Arc<Shared>, name: &str, ptx: &str) -> Result<Self> {
        let image = CString::new(ptx)
            .map_err(|_| driver_error("cuModuleLoadData", format!("{name} is not PTX")))?;
        shared.enter()?;
        let mut log = vec![0u8; 8192];
        let mut options = [
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
        let mut handle = std::ptr::null_mut();
        // SAFETY: the image ends with zero; the options give a log buffer and its
        // size, which outlive the call.
        let got = unsafe {
            sys::cuModuleLoadDataEx(
                &mut handle,
                image.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        if got != CUresult::CUDA_SUCCESS {
            let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
            let said = String::from_utf8_lossy(&log[..end]);
            return Err(driver_error(
                "cuModuleLoadData",
                format!(
                    "{} for kernels {name} on {}: {}; update the NVIDIA driver",
                    text(got),
                    shared.info.name,
                    said.trim()
                ),
            ));
        }
        Ok(CudaModule {
            shared: shared.clone(),
            name: name.into(),
            handle,
            entries: entries(ptx),
        })
    }

    /// The function of that name.
    ///
    /// # Errors
    /// The module has none, or it does not take one struct.
    pub fn function(self: &Arc<Self>, name: &str) -> Result<CudaFunction> {
        let bad = |reason: &str| {
            driver_error(
                "cuModuleGetFunction",
                format!("{name} in {}: {reason}", self.name),
            )
        };
        let entry = *self.entries.get(name).ok_or_else(|| bad("no such entry"))?;
        let symbol = CString::new(name).map_err(|_| bad("not a name"))?;
        self.shared.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: a live module and a string that ends with zero.
        let got = unsafe { sys::cuModuleGetFunction(&mut handle, self.handle, symbol.as_ptr()) };
        self.shared.check(got, "cuModuleGetFunction")?;
        Ok(CudaFunction {
            module: self.clone(),
            handle,
            name: name.into(),
            params: entry.params,
            waits: entry.waits,
        })
    }
}

impl CudaFunction {
    /// Lets blocks use that much shared memory beyond what the kernel declares.
    pub(super) fn allow_shared(&self, bytes: u32) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let shared = &self.module.shared;
        if bytes > shared.limits.shared_bytes {
            return Err(HalError::Driver {
                api: API,
                call: "cuFuncSetAttribute",
                reason: format!(
                    "{} asks for {bytes} bytes of shared memory, {} has {}",
                    self.name, shared.info.name, shared.limits.shared_bytes
                ),
            });
        }
        shared.enter()?;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: a live function.
        let got = unsafe { sys::cuFuncSetAttribute(self.handle, attribute, bytes as i32) };
        shared.check(got, "cuFuncSetAttribute")
    }
}

impl Drop for CudaModule {
    fn drop(&mut self) {
        if self.shared.enter().is_ok() {
            // SAFETY: functions hold the module, and recordings the functions.
            unsafe { sys::cuModuleUnload(self.handle) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, entries};

    #[test]
    fn entries_are_found_with_their_parameter() {
        let ptx = ".visible .entry a(\n\t.param .align 8 .b8 a_param_0[64]\n)\n{ ret; }\n\
                   .visible .entry b()\n{ griddepcontrol.wait; ret; }\n";
        let found: Vec<_> = entries(ptx).into_iter().collect();
        let entry = |params, waits| Entry { params, waits };
        let want = [
            ("a".to_string(), entry(64, false)),
            ("b".to_string(), entry(0, true)),
        ];
        assert_eq!(found, want);
        assert!(entries("no code").is_empty());
    }
}
