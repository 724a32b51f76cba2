//! CUDA, opened at run time.
//!
//! The driver (`libcuda.so.1`) is found by `dlopen` through cudarc, so a binary
//! starts on a machine without it and says what is missing when a device is asked
//! for; nothing of the CUDA toolkit is needed to build or run. Kernels are PTX
//! that the driver compiles: a tree loads a [`CudaModule`] through
//! [`CudaDevice::module`] and appends its functions to a [`CudaRecorder`] with the
//! ranges they read and write.
//!
//! A recording is one CUDA graph, captured once and launched once for each run.
//! All work of a device is on one stream, so commands run in order.

mod device;
mod driver;
mod memory;
mod module;
mod record;
mod tensor_map;

pub use device::CudaDevice;
pub use driver::{Limits, probe, probe_within};
pub use module::{CudaFunction, CudaModule};
pub use record::{CudaRecorder, Launch};
pub use tensor_map::{MapFormat, Matrix, Strided, TensorMap};

pub(crate) const API: &str = "cuda";
