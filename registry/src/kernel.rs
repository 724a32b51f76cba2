//! The kernel contract.

use crate::key::{Act, Key};
use crate::pattern::Pattern;
use crate::problem::{Operand, Problem, join_quant};
use crate::scheme::Scheme;
use hal::{Access, Buffer, Device, HalError, Recorder};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    #[error(transparent)]
    Hal(#[from] HalError),
    #[error("{key}: {reason}")]
    Prepare { key: String, reason: String },
}

/// A kernel's identity and what the planner may know of it.
#[derive(Clone, Copy, Debug)]
pub struct KernelSpec {
    pub backend: &'static str,
    pub pattern: &'static Pattern,
    /// Scheme of each stored operand in pattern order; one name means all equal.
    /// Kernels without a stored operand say `f32`.
    pub quant: &'static [&'static str],
    pub variant: &'static str,
    pub act: Act,
    /// Among kernels that fit and that no tuned pick names, the highest rank
    /// runs. A composite of negative rank runs only where it is picked.
    pub rank: i32,
    /// Layouts in which the kernel takes its matrices; all of them the same one.
    /// Empty for kernels without matrices.
    pub layouts: &'static [&'static str],
    /// Largest |kernel − oracle| over the oracle's root mean square, for the
    /// same activation format.
    pub tolerance: f32,
}

impl KernelSpec {
    pub fn key(&self) -> Key {
        Key {
            backend: self.backend,
            layer: self.pattern.layer(),
            quant: join_quant(self.quant),
            variant: self.variant,
        }
    }
}

pub trait Kernel: Sync + Send {
    fn spec(&self) -> &KernelSpec;

    /// Whether the kernel computes this problem on this device, and if not why.
    /// The pattern, the schemes and the layouts already match.
    fn fits(&self, problem: &Problem) -> Result<(), String>;

    /// Everything that does not depend on addresses: pipelines, geometry.
    fn prepare(
        &self,
        problem: &Problem,
        device: &dyn Device,
    ) -> Result<Box<dyn Prepared>, KernelError>;
}

pub trait Prepared: Send + Sync {
    /// Bytes of scratch the kernel wants in [`Binds::workspace`].
    fn workspace(&self) -> u64 {
        0
    }

    /// Appends the kernel to a recording. What changes from step to step is in
    /// the buffers, the step buffer above all; nothing else may be read.
    fn record(&self, recorder: &mut dyn Recorder, binds: &Binds) -> Result<(), KernelError>;
}

/// Where an operand lies.
#[derive(Clone, Debug)]
pub struct TensorRef {
    pub buffer: Buffer,
    /// Bytes.
    pub offset: u64,
    pub shape: Vec<usize>,
    /// Elements between neighbours of each dimension. Of a matrix or cache they
    /// are those of its layout and kernels use the operand's description instead.
    pub strides: Vec<usize>,
    pub scheme: Scheme,
    pub layout: &'static str,
    /// Bytes from `offset` that the operand spans.
    pub bytes: u64,
}

impl TensorRef {
    /// A contiguous operand at `offset`.
    pub fn contiguous(buffer: &Buffer, offset: u64, operand: &Operand, bytes: u64) -> Self {
        let mut strides = vec![1; operand.shape.len()];
        for i in (1..operand.shape.len()).rev() {
            strides[i - 1] = strides[i] * operand.shape[i];
        }
        TensorRef {
            buffer: buffer.clone(),
            offset,
            shape: operand.shape.clone(),
            strides,
            scheme: operand.scheme,
            layout: operand.layout,
            bytes,
        }
    }

    pub fn read(&self) -> Access {
        Access::read(&self.buffer, self.offset..self.offset + self.bytes)
    }

    pub fn write(&self) -> Access {
        Access::write(&self.buffer, self.offset..self.offset + self.bytes)
    }

    /// Elements between rows of an activation; its rows are contiguous inside.
    pub fn row_stride(&self) -> usize {
        self.strides.first().copied().unwrap_or(0)
    }
}

/// Addresses for one use of a kernel; indices as in [`Problem`].
#[derive(Clone, Debug)]
pub struct Binds {
    pub inputs: Vec<TensorRef>,
    pub outputs: Vec<TensorRef>,
    pub workspace: Option<TensorRef>,
    /// The step buffer, u32 words laid out by [`crate::StepLayout`].
    pub step: TensorRef,
}

impl Binds {
    /// Reads of all inputs and the step, writes of all outputs and workspace: the
    /// declaration that fits most kernels. Caches among the outputs alias their
    /// inputs.
    pub fn accesses(&self) -> Vec<Access> {
        let reads = self.inputs.iter().chain([&self.step]).map(TensorRef::read);
        let writes = self.outputs.iter().chain(&self.workspace);
        reads.chain(writes.map(TensorRef::write)).collect()
    }
}

/// What [`crate::register!`] submits.
pub struct Registration {
    pub kernel: &'static dyn Kernel,
    pub file: &'static str,
}

inventory::collect!(Registration);
