//! PTX of `kernels/cuda_sm86` and `kernels/cuda_sm90`.
//!
//! NVRTC is opened at run time: `ESPALIER_NVRTC` names the library, else
//! `libnvrtc.so.12` is looked for as usual. PyPI's `nvidia-cuda-nvrtc-cu12` holds
//! it; no GPU, driver or toolkit is needed.

use crate::prebuilt::{Recipe, rebuild};
use anyhow::{Context, Result, bail};
use libloading::{Library, Symbol};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

/// Its PTX is version 8.1: drivers from 530 on read it.
const VERSION: (c_int, c_int) = (12, 1);
const COMPILER: &str = "NVRTC 12.1 (nvidia-cuda-nvrtc-cu12 12.1.105)";

/// A tree of CUDA C++ sources.
pub struct Tree {
    pub folder: PathBuf,
    pub flags: &'static [&'static str],
}

/// The trees, parents first.
pub fn trees() -> [Tree; 2] {
    let of = |name: &str, flags| Tree {
        folder: crate::workspace().join("kernels").join(name),
        flags,
    };
    [
        of(
            "cuda_sm86",
            &["--gpu-architecture=compute_86", "--std=c++17"],
        ),
        of(
            "cuda_sm90",
            &["--gpu-architecture=compute_90a", "--std=c++17"],
        ),
    ]
}

/// `linear/gemv.cu` is built to `linear.gemv.ptx`.
pub fn object_name(source: &str) -> String {
    let stem = source.strip_suffix(".cu").unwrap_or(source);
    format!("{}.ptx", stem.replace('/', "."))
}

/// What is out of date by hash alone.
pub fn stale(tree: &Path) -> Result<Vec<String>> {
    crate::prebuilt::stale(tree, "cu", object_name)
}

/// Rebuilds every kernel. With `check` nothing is written: the names of the
/// objects whose bytes differ are returned. Without it, those that were written.
pub fn prebuild(tree: &Tree, check: bool) -> Result<Vec<String>> {
    let nvrtc = Nvrtc::open()?;
    let recipe = Recipe {
        compiler: COMPILER,
        flags: tree.flags,
        extension: "cu",
        object_name,
    };
    rebuild(&tree.folder, &recipe, check, |source, text| {
        nvrtc.compile(source, text, tree.flags)
    })
}

struct Nvrtc {
    library: Library,
}

type Program = *mut c_void;

impl Nvrtc {
    fn open() -> Result<Self> {
        let name = std::env::var("ESPALIER_NVRTC").unwrap_or_else(|_| "libnvrtc.so.12".into());
        // SAFETY: NVRTC's initialisers have no requirements.
        let library = unsafe { Library::new(&name) }.with_context(|| {
            format!(
                "cannot open {name}: `pip install nvidia-cuda-nvrtc-cu12==12.1.105` and set ESPALIER_NVRTC to its libnvrtc.so.12"
            )
        })?;
        let nvrtc = Nvrtc { library };
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the signature is NVRTC's; it fills two numbers.
        let status = unsafe {
            let version: Symbol<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int> =
                nvrtc.library.get(b"nvrtcVersion\0")?;
            version(&mut major, &mut minor)
        };
        if status != 0 || (major, minor) != VERSION {
            bail!(
                "{name} is NVRTC {major}.{minor}; the kernels are built with {}.{} so that rebuilt bytes can be compared",
                VERSION.0,
                VERSION.1
            );
        }
        Ok(nvrtc)
    }

    fn compile(&self, name: &str, text: &str, flags: &[&str]) -> Result<Vec<u8>> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
        type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
        type Get = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
        type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
        let (source, file) = (CString::new(text)?, CString::new(name)?);
        let flags: Vec<CString> = flags
            .iter()
            .map(|f| CString::new(*f))
            .collect::<Result<_, _>>()?;
        let flags: Vec<*const c_char> = flags.iter().map(|f| f.as_ptr()).collect();
        let lib = &self.library;
        let text_of = |size: &[u8], get: &[u8], program: Program| -> Result<Vec<u8>> {
            // SAFETY: the signatures are NVRTC's, the program is live, and the
            // buffer has the size that NVRTC asks for.
            unsafe {
                let (size, get): (Symbol<Size>, Symbol<Get>) = (lib.get(size)?, lib.get(get)?);
                let mut bytes = 0;
                if size(program, &mut bytes) != 0 {
                    bail!("NVRTC gave no size");
                }
                let mut out = vec![0u8; bytes.max(1)];
                if get(program, out.as_mut_ptr().cast()) != 0 {
                    bail!("NVRTC gave no text");
                }
                let text = CStr::from_bytes_until_nul(&out)?;
                Ok(text.to_bytes().to_vec())
            }
        };
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: the signatures are NVRTC's; strings end with zero and outlive
        // the calls; the program is destroyed once.
        unsafe {
            let create: Symbol<Create> = lib.get(b"nvrtcCreateProgram\0")?;
            let run: Symbol<Compile> = lib.get(b"nvrtcCompileProgram\0")?;
            let destroy: Symbol<Destroy> = lib.get(b"nvrtcDestroyProgram\0")?;
            let none = std::ptr::null();
            if create(&mut program, source.as_ptr(), file.as_ptr(), 0, none, none) != 0 {
                bail!("NVRTC does not take {name}");
            }
            let status = run(program, flags.len() as c_int, flags.as_ptr());
            let result = match status {
                0 => text_of(b"nvrtcGetPTXSize\0", b"nvrtcGetPTX\0", program),
                _ => {
                    let log = text_of(
                        b"nvrtcGetProgramLogSize\0",
                        b"nvrtcGetProgramLog\0",
                        program,
                    )?;
                    Err(anyhow::anyhow!("{}", String::from_utf8_lossy(&log)))
                }
            };
            destroy(&mut program);
            result
        }
    }
}
