//! Kernels as plugins: keys, the kernel contract, registration, resolution.
//!
//! A kernel is found by four axes, [`Key`] `{ backend, layer, quant, variant }`.
//! It registers itself beside its code with [`register!`]; a tree registers its
//! [`Backend`] and the [`WeightLayout`]s it packs. [`Registry::collect`] gathers
//! what is linked into the binary and refuses duplicates. Binaries link the
//! trees through the `kernels` facade: a crate that no code names registers
//! nothing, silently.
//!
//! Resolution is exact: the backend asked for, then its declared parents. It
//! never falls to another backend.

mod backend;
mod codes;
mod error;
mod kernel;
mod key;
mod layout;
mod pattern;
pub mod patterns;
mod problem;
mod resolve;
mod scheme;
mod step;
mod tuned;
mod work;

pub use backend::{Backend, OpenFn, OpenOptions};
pub use codes::{Codes, MOST as MOST_CODES, codes};
pub use error::RegistryError;
pub use kernel::{Binds, Kernel, KernelError, KernelSpec, Prepared, Registration, TensorRef};
pub use key::{Act, Key, Layer};
pub use layout::{ROW_MAJOR, WeightLayout, WeightShape};
pub use pattern::{Pattern, PatternOp, Src};
pub use problem::{
    CacheView, Operand, OperandRole, OperandSrc, Problem, ProblemOp, RowRange, RowsFrom, StateView,
};
pub use resolve::{Entry, Registry, Request, Resolved, Why};
pub use scheme::{Scheme, SchemeDesc};
pub use step::{GroupLayout, NO_BLOCK, NO_STATE, STEP_VERSION, StepLayout, StepView};
pub use tuned::{Pick, Tuned};
pub use work::{StepSize, Work};

#[doc(hidden)]
pub use inventory;

/// Registers a `static` kernel under its spec's key.
#[macro_export]
macro_rules! register {
    ($($kernel:expr),+ $(,)?) => {
        $($crate::inventory::submit! {
            $crate::Registration { kernel: &$kernel, file: file!() }
        })+
    };
}
