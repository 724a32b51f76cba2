//! From the kernel contract to a launch: what all kernels of the tree share.

use crate::BACKEND;
use crate::common::args::Args;
use hal::cuda::{CudaDevice, CudaModule, CudaRecorder, Launch};
use hal::{Device, HalError, Recorder};
use registry::{
    Act, Binds, Kernel, KernelError, KernelSpec, Pattern, Prepared, Problem, RowsFrom, Scheme,
    TensorRef,
};
use std::sync::Arc;

pub type Result<T> = std::result::Result<T, KernelError>;
pub type Fits = std::result::Result<(), String>;

/// PTX of one source.
#[derive(Clone, Copy)]
pub struct Ptx {
    pub name: &'static str,
    pub text: &'static str,
}

impl Ptx {
    /// What an author of kernels tries out: `<name>.ptx` of the folder that
    /// `ESPALIER_CUDA_PTX` names.
    fn own(&self) -> Option<String> {
        let folder = std::env::var_os("ESPALIER_CUDA_PTX")?;
        let file = std::path::Path::new(&folder).join(format!("{}.ptx", self.name));
        std::fs::read_to_string(file).ok()
    }

    /// The text for a device. From compute capability 9.0 on, kernels may start
    /// before the one ahead has ended; PTX for less has no instruction for that, so
    /// its places are marked in the text. All else is the same.
    fn on(&self, capability: u32) -> String {
        let text = self.own().unwrap_or_else(|| self.text.into());
        if capability < 90 {
            return text;
        }
        text.replacen(".target sm_86", ".target sm_90", 1)
            .replace("// pdl_wait", "griddepcontrol.wait;")
            .replace("// pdl_launch", "griddepcontrol.launch_dependents;")
    }
}

/// `ptx!("linear.gemv")`.
macro_rules! ptx {
    ($name:literal) => {
        $crate::common::launch::Ptx {
            name: $name,
            text: include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/prebuilt/",
                $name,
                ".ptx"
            )),
        }
    };
}
pub(crate) use ptx;

/// A kernel of this tree.
pub struct Plain {
    pub spec: KernelSpec,
    pub ptx: Ptx,
    pub fits: fn(&Problem) -> Fits,
    /// Bytes of scratch.
    pub workspace: fn(&Problem) -> u64,
    pub record: fn(&mut Step<'_>) -> Result<()>,
}

impl Plain {
    /// A kernel in f32 activations.
    pub const fn new(
        pattern: &'static Pattern,
        quant: &'static [&'static str],
        variant: &'static str,
        ptx: Ptx,
        record: fn(&mut Step<'_>) -> Result<()>,
    ) -> Self {
        Plain {
            spec: KernelSpec {
                backend: BACKEND,
                pattern,
                quant,
                variant,
                act: Act::F32,
                rank: 0,
                layouts: &[],
                tolerance: 2e-5,
            },
            ptx,
            fits: common,
            workspace: |_| 0,
            record,
        }
    }

    /// Puts it into a tree whose declared parent is this one.
    pub const fn of_tree(mut self, backend: &'static str) -> Self {
        self.spec.backend = backend;
        self
    }

    pub const fn with_layouts(mut self, layouts: &'static [&'static str]) -> Self {
        self.spec.layouts = layouts;
        self
    }

    pub const fn with_fits(mut self, fits: fn(&Problem) -> Fits) -> Self {
        self.fits = fits;
        self
    }

    pub const fn with_workspace(mut self, workspace: fn(&Problem) -> u64) -> Self {
        self.workspace = workspace;
        self
    }

    pub const fn with_rank(mut self, rank: i32) -> Self {
        self.spec.rank = rank;
        self
    }

    pub const fn with_tolerance(mut self, tolerance: f32) -> Self {
        self.spec.tolerance = tolerance;
        self
    }

    pub const fn with_act(mut self, act: Act) -> Self {
        self.spec.act = act;
        self
    }
}

/// What kernels without a `fits` of their own refuse.
pub fn common(problem: &Problem) -> Fits {
    problem.common_attributes()
}

impl Kernel for Plain {
    fn spec(&self) -> &KernelSpec {
        &self.spec
    }

    fn fits(&self, problem: &Problem) -> Fits {
        (self.fits)(problem)
    }

    fn prepare(&self, problem: &Problem, device: &dyn Device) -> Result<Box<dyn Prepared>> {
        let device: &CudaDevice = device
            .as_any()
            .downcast_ref()
            .ok_or(HalError::WrongDevice {
                wanted: "cuda",
                found: device.info().api,
            })?;
        Ok(Box::new(PlainPrepared {
            problem: problem.clone(),
            key: self.spec.key().to_string(),
            module: device.module(self.ptx.name, || self.ptx.on(device.limits().capability))?,
            workspace: (self.workspace)(problem),
            record: self.record,
        }))
    }
}

struct PlainPrepared {
    problem: Problem,
    key: String,
    module: Arc<CudaModule>,
    workspace: u64,
    record: fn(&mut Step<'_>) -> Result<()>,
}

impl Prepared for PlainPrepared {
    fn workspace(&self) -> u64 {
        self.workspace
    }

    fn record(&self, recorder: &mut dyn Recorder, binds: &Binds) -> Result<()> {
        let recorder = recorder.as_any_mut().downcast_mut::<CudaRecorder>();
        let recorder = recorder.ok_or(HalError::WrongDevice {
            wanted: "cuda",
            found: "recorder of another API",
        })?;
        (self.record)(&mut Step {
            problem: &self.problem,
            key: &self.key,
            binds,
            module: &self.module,
            recorder,
        })
    }
}

/// A kernel being recorded: its problem and where its operands lie.
pub struct Step<'a> {
    pub problem: &'a Problem,
    pub binds: &'a Binds,
    pub recorder: &'a mut CudaRecorder,
    key: &'a str,
    module: &'a Arc<CudaModule>,
}

impl<'a> Step<'a> {
    pub fn refuse(&self, reason: impl Into<String>) -> KernelError {
        KernelError::Prepare {
            key: self.key.into(),
            reason: reason.into(),
        }
    }

    /// Where input `i` of op `op` lies.
    pub fn operand(&self, op: usize, i: usize) -> Result<&'a TensorRef> {
        match self.problem.input(op, i) {
            Some((n, _)) => Ok(&self.binds.inputs[n]),
            None => Err(self.refuse(format!("input {i} of op {op} is missing from the problem"))),
        }
    }

    /// Where input `i` of op `op` lies, if there is one.
    pub fn optional(&self, op: usize, i: usize) -> Option<&'a TensorRef> {
        let (n, _) = self.problem.input(op, i)?;
        Some(&self.binds.inputs[n])
    }

    /// Where input `i` of a primitive lies.
    pub fn input(&self, i: usize) -> Result<&'a TensorRef> {
        self.operand(0, i)
    }

    /// The first output.
    pub fn output(&self) -> &'a TensorRef {
        &self.binds.outputs[0]
    }

    pub fn rows_from(&self) -> RowsFrom {
        self.problem.outputs[0].rows
    }

    /// Most rows of the output.
    pub fn max_rows(&self) -> u32 {
        self.problem.outputs[0].shape.first().copied().unwrap_or(1) as u32
    }

    /// Elements of a row of the output.
    pub fn row_len(&self) -> usize {
        self.problem.outputs[0].row_len()
    }

    /// Where the scratch that the kernel asked for lies.
    pub fn scratch(&self) -> Result<&'a TensorRef> {
        let found = self.binds.workspace.as_ref();
        found.ok_or_else(|| self.refuse("the workspace is missing"))
    }

    /// Appends a launch with the accesses that `Binds` implies.
    pub fn launch(&mut self, entry: &str, args: &Args, grid: [u32; 3], block: u32) -> Result<()> {
        self.launch_shared(entry, args, grid, block, 0)
    }

    /// As [`Self::launch`], with dynamic shared memory.
    pub fn launch_shared(
        &mut self,
        entry: &str,
        args: &Args,
        grid: [u32; 3],
        block: u32,
        shared: u32,
    ) -> Result<()> {
        let function = self.module.function(entry)?;
        let accesses = self.binds.accesses();
        self.recorder.launch(&Launch {
            label: self.key,
            function: &function,
            params: &args.bytes(),
            grid,
            block,
            shared,
            keep: &args.keep,
            accesses: &accesses,
        })?;
        Ok(())
    }
}

/// Blocks of `size` that cover `items`.
pub fn blocks(items: usize, size: usize) -> u32 {
    u32::try_from(items.div_ceil(size)).unwrap_or(u32::MAX)
}

/// Threads of a block that reduces over `items`.
pub fn reduce_threads(items: usize) -> u32 {
    (items / 4).next_power_of_two().clamp(32, 1024) as u32
}

/// The part of an entry's name that says how numbers are stored.
pub fn suffix(scheme: Scheme) -> std::result::Result<&'static str, String> {
    match scheme {
        Scheme::F32 | Scheme::F16 | Scheme::BF16 | Scheme::INT8_KV => Ok(scheme.0),
        other => Err(format!("no kernel decodes {other}")),
    }
}

/// Bytes of a plain element.
pub fn element_bytes(scheme: Scheme) -> u64 {
    match scheme {
        Scheme::F32 => 4,
        Scheme::INT8_KV => 1,
        _ => 2,
    }
}

/// The step word that counts an operand's rows.
pub fn rows_word(from: RowsFrom) -> Option<usize> {
    match from {
        RowsFrom::Fixed => None,
        RowsFrom::Batch => Some(registry::StepLayout::ROWS),
        RowsFrom::Logits => Some(registry::StepLayout::LOGIT_ROWS),
    }
}
