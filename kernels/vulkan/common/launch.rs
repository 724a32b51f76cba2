//! From the kernel contract to a dispatch: what all kernels of the tree share.

use crate::BACKEND;
use crate::common::args::Args;
use crate::common::stored::Matrix;
use hal::vulkan::{Limits, PipelineDesc, VulkanDevice, VulkanPipeline, VulkanRecorder};
use hal::{Access, Device, DeviceInfo, DeviceKind, HalError, Recorder};
use registry::{
    Act, Binds, Kernel, KernelError, KernelSpec, Pattern, Prepared, Problem, ROW_MAJOR, RowsFrom,
    Scheme, TensorRef,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

pub type Result<T> = std::result::Result<T, KernelError>;

/// SPIR-V of `<layer>/<variant>.comp` and the size of its interface.
#[derive(Clone, Copy)]
pub struct Shader {
    pub name: &'static str,
    pub spirv: &'static [u8],
    pub buffers: u32,
    pub push_words: u32,
}

impl Shader {
    /// The SPIR-V, or what an author of kernels tries out: `<name>.spv` of the folder
    /// that `ESPALIER_VULKAN_SPIRV` names.
    fn code(&self) -> &'static [u8] {
        static OWN: Mutex<BTreeMap<&'static str, &'static [u8]>> = Mutex::new(BTreeMap::new());
        let Some(folder) = std::env::var_os("ESPALIER_VULKAN_SPIRV") else {
            return self.spirv;
        };
        let mut own = OWN.lock().unwrap_or_else(|e| e.into_inner());
        // Kept, because pipelines are found by where their code lies.
        own.entry(self.name).or_insert_with(|| {
            let file = std::path::Path::new(&folder).join(format!("{}.spv", self.name));
            std::fs::read(file).map_or(self.spirv, |code| code.leak())
        })
    }
}

/// `shader!("linear.gemv", buffers, push constant words)`.
macro_rules! shader {
    ($name:literal, $buffers:literal, $push:literal) => {
        $crate::common::launch::Shader {
            name: $name,
            spirv: include_bytes!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/prebuilt/",
                $name,
                ".spv"
            )),
            buffers: $buffers,
            push_words: $push,
        }
    };
}
pub(crate) use shader;

/// The device a kernel is prepared for.
#[derive(Clone, Copy)]
pub struct Gpu<'a> {
    pub info: &'a DeviceInfo,
    pub limits: &'a Limits,
}

/// What llvmpipe sees through of a shader's loops.
const SOFTWARE_TURNS: usize = 65_535;

impl Gpu<'_> {
    /// The constants 0 to 2 of every shader, for workgroups of `lanes`.
    pub fn lanes(&self, lanes: u32) -> Vec<u32> {
        let one = lanes == self.info.subgroup && self.limits.whole_subgroups;
        vec![lanes, lanes, u32::from(one)]
    }

    /// For shaders whose lanes work alone.
    pub fn elementwise(&self) -> Vec<u32> {
        self.lanes(128)
    }

    /// Refuses what a software device would not see through: llvmpipe ends a shader
    /// after 65,535 turns of its loops, all of them together, without a word.
    pub fn check_turns(&self, turns: usize, of: &str) -> std::result::Result<(), String> {
        match self.info.kind {
            DeviceKind::Software if turns > SOFTWARE_TURNS => Err(format!(
                "{} ends a shader after {SOFTWARE_TURNS} turns of its loops, and {of} takes {turns}",
                self.info.name
            )),
            _ => Ok(()),
        }
    }

    /// For shaders that reduce over `items`: one subgroup, or as many as keep four
    /// items for each lane.
    pub fn reduce(&self, items: usize) -> Vec<u32> {
        let subgroup = self.info.subgroup;
        let most = self
            .limits
            .reduce_lanes
            .min(self.limits.workgroup_invocations);
        let wanted = u32::try_from(items / 4).unwrap_or(most).min(most);
        self.lanes(
            wanted
                .next_power_of_two()
                .clamp(subgroup, most.max(subgroup)),
        )
    }
}

/// A further dispatch of a kernel, which goes on with what the ones before left in
/// the workspace.
#[derive(Clone, Copy)]
pub struct Further {
    pub shader: Shader,
    pub constants: fn(&Problem, Gpu) -> std::result::Result<Vec<u32>, String>,
}

/// A kernel of this tree.
pub struct Plain {
    pub spec: KernelSpec,
    pub shader: Shader,
    /// Whether it knows what [`Problem::common_attributes`] refuses.
    pub every_attribute: bool,
    pub fits: fn(&Problem) -> std::result::Result<(), String>,
    /// Specialization constants, the workgroup's size first.
    pub constants: fn(&Problem, Gpu) -> std::result::Result<Vec<u32>, String>,
    pub further: &'static [Further],
    /// Bytes of scratch.
    pub workspace: fn(&Problem) -> u64,
    /// Counters (words) that are zero before each run of the kernel, and that it
    /// leaves so: see `last.glsl`.
    pub counters: fn(&Problem) -> usize,
    pub record: fn(&mut Step<'_>) -> Result<()>,
}

impl Plain {
    /// A kernel in f32 activations.
    pub const fn new(
        pattern: &'static Pattern,
        quant: &'static [&'static str],
        variant: &'static str,
        shader: Shader,
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
            shader,
            every_attribute: false,
            fits: |_| Ok(()),
            constants: |_, gpu| Ok(gpu.elementwise()),
            further: &[],
            workspace: |_| 0,
            counters: |_| 0,
            record,
        }
    }

    /// With matrices, in the layout that the tree's kernels take of their scheme.
    pub const fn with_matrix(mut self, layouts: &'static [&'static str]) -> Self {
        self.spec.layouts = layouts;
        self
    }

    pub const fn with_further(
        mut self,
        further: &'static [Further],
        workspace: fn(&Problem) -> u64,
    ) -> Self {
        self.further = further;
        self.workspace = workspace;
        self
    }

    pub const fn with_workspace(mut self, workspace: fn(&Problem) -> u64) -> Self {
        self.workspace = workspace;
        self
    }

    /// With a counter of its workgroups, zero before and after every dispatch.
    pub const fn with_counter(mut self) -> Self {
        self.counters = |_| 1;
        self
    }

    pub const fn with_every_attribute(mut self) -> Self {
        self.every_attribute = true;
        self
    }

    pub const fn with_constants(
        mut self,
        constants: fn(&Problem, Gpu) -> std::result::Result<Vec<u32>, String>,
    ) -> Self {
        self.constants = constants;
        self
    }

    fn refuse(&self, reason: String) -> KernelError {
        KernelError::Prepare {
            key: self.spec.key().to_string(),
            reason,
        }
    }
}

impl Kernel for Plain {
    fn spec(&self) -> &KernelSpec {
        &self.spec
    }

    fn fits(&self, problem: &Problem) -> std::result::Result<(), String> {
        if !self.every_attribute {
            problem.common_attributes()?;
        }
        (self.fits)(problem)
    }

    fn prepare(&self, problem: &Problem, device: &dyn Device) -> Result<Box<dyn Prepared>> {
        let device: &VulkanDevice =
            device
                .as_any()
                .downcast_ref()
                .ok_or(HalError::WrongDevice {
                    wanted: BACKEND,
                    found: device.info().api,
                })?;
        let gpu = Gpu {
            info: device.info(),
            limits: device.limits(),
        };
        let spec = (self.constants)(problem, gpu).map_err(|e| self.refuse(e))?;
        let key = self.spec.key().to_string();
        let pipeline = |shader: &Shader, spec: &[u32]| {
            device.pipeline(&PipelineDesc {
                name: &key,
                spirv: shader.code(),
                buffers: shader.buffers,
                push_words: shader.push_words,
                spec,
            })
        };
        let first = pipeline(&self.shader, &spec)?;
        let mut further = Vec::new();
        for shader in self.further {
            let spec = (shader.constants)(problem, gpu).map_err(|e| self.refuse(e))?;
            further.push((pipeline(&shader.shader, &spec)?, spec));
        }
        // Of their own, because they must be zero when a dispatch begins.
        let counters = match (self.counters)(problem) {
            0 => None,
            n => Some(TensorRef {
                buffer: device.alloc(n as u64 * 4, "counters of workgroups")?,
                offset: 0,
                shape: vec![n],
                strides: vec![1],
                scheme: Scheme::U32,
                layout: ROW_MAJOR,
                bytes: n as u64 * 4,
            }),
        };
        Ok(Box::new(PlainPrepared {
            counters,
            problem: problem.clone(),
            constants: spec,
            pipeline: first,
            further,
            workspace: (self.workspace)(problem),
            record: self.record,
            key,
        }))
    }
}

struct PlainPrepared {
    problem: Problem,
    key: String,
    constants: Vec<u32>,
    pipeline: Arc<VulkanPipeline>,
    further: Vec<(Arc<VulkanPipeline>, Vec<u32>)>,
    workspace: u64,
    counters: Option<TensorRef>,
    record: fn(&mut Step<'_>) -> Result<()>,
}

impl Prepared for PlainPrepared {
    fn workspace(&self) -> u64 {
        self.workspace
    }

    fn record(&self, recorder: &mut dyn Recorder, binds: &Binds) -> Result<()> {
        let recorder = recorder.as_any_mut().downcast_mut::<VulkanRecorder>();
        let recorder = recorder.ok_or(HalError::WrongDevice {
            wanted: BACKEND,
            found: "recorder of another API",
        })?;
        (self.record)(&mut Step {
            problem: &self.problem,
            key: &self.key,
            binds,
            constants: &self.constants,
            pipeline: &self.pipeline,
            further: &self.further,
            counters: self.counters.as_ref(),
            recorder,
        })
    }
}

/// A kernel being recorded: its problem and where its operands lie.
pub struct Step<'a> {
    pub problem: &'a Problem,
    pub binds: &'a Binds,
    /// Specialization constants of the pipeline.
    pub constants: &'a [u32],
    key: &'a str,
    pipeline: &'a Arc<VulkanPipeline>,
    further: &'a [(Arc<VulkanPipeline>, Vec<u32>)],
    counters: Option<&'a TensorRef>,
    recorder: &'a mut VulkanRecorder,
}

impl<'a> Step<'a> {
    pub fn refuse(&self, reason: impl Into<String>) -> KernelError {
        KernelError::Prepare {
            key: self.key.into(),
            reason: reason.into(),
        }
    }

    pub fn limits(&self) -> Limits {
        *self.recorder.limits()
    }

    pub fn args(&self) -> Args<'a> {
        Args::new(self.key, self.limits().storage_alignment)
    }

    /// Where input `i` of op `op` lies.
    pub fn operand(&self, op: usize, i: usize) -> Result<&'a TensorRef> {
        match self.problem.input(op, i) {
            Some((n, _)) => Ok(&self.binds.inputs[n]),
            None => Err(self.refuse(format!("input {i} of op {op} is missing from the problem"))),
        }
    }

    /// As [`Step::operand`], of an input that may be absent.
    pub fn optional(&self, op: usize, i: usize) -> Result<Option<&'a TensorRef>> {
        match self.problem.input(op, i) {
            Some(_) => self.operand(op, i).map(Some),
            None => Ok(None),
        }
    }

    /// Where input `i` of a primitive lies.
    pub fn input(&self, i: usize) -> Result<&'a TensorRef> {
        self.operand(0, i)
    }

    pub fn has_input(&self, i: usize) -> bool {
        self.problem.input(0, i).is_some()
    }

    /// The first output.
    pub fn output(&self) -> &'a TensorRef {
        &self.binds.outputs[0]
    }

    /// Most rows of the output.
    pub fn max_rows(&self) -> u32 {
        self.problem.outputs[0].shape.first().copied().unwrap_or(1) as u32
    }

    /// Elements of a row of the output.
    pub fn row_len(&self) -> usize {
        self.problem.outputs[0].row_len()
    }

    /// Workgroups that cover `items` lanes.
    pub fn groups_of(&self, items: usize) -> u32 {
        (items as u32).div_ceil(self.constants[0])
    }

    /// The parts `(first row, rows)` of a matrix that bindings can hold.
    pub fn row_parts(&self, matrix: &Matrix) -> Result<Vec<(usize, usize)>> {
        let most = self.limits().rows_per_binding(matrix.row, matrix.n);
        if most == 0 {
            return Err(self.refuse(format!(
                "one row of {} bytes is larger than a binding",
                matrix.row
            )));
        }
        let firsts = (0..matrix.n).step_by(most);
        Ok(firsts.map(|f| (f, most.min(matrix.n - f))).collect())
    }

    /// The scratch.
    pub fn workspace(&self) -> Result<&'a TensorRef> {
        let found = self.binds.workspace.as_ref();
        found.ok_or_else(|| self.refuse("recorded without its workspace"))
    }

    /// The counters of workgroups.
    pub fn counters(&self) -> Result<&'a TensorRef> {
        let found = self.counters;
        found.ok_or_else(|| self.refuse("it counts no workgroups"))
    }

    /// Appends a dispatch with the accesses that `Binds` implies.
    pub fn dispatch(&mut self, args: &Args<'_>, groups: [u32; 3]) -> Result<()> {
        let mut accesses = self.binds.accesses();
        accesses.extend(self.counters.map(TensorRef::write));
        self.dispatch_with(args, groups, &accesses)
    }

    pub fn dispatch_with(
        &mut self,
        args: &Args<'_>,
        groups: [u32; 3],
        accesses: &[Access],
    ) -> Result<()> {
        let (binds, push) = (&args.binds, &args.push);
        let pipeline = self.pipeline;
        Ok(self
            .recorder
            .dispatch(self.key, pipeline, binds, push, groups, accesses)?)
    }

    /// Specialization constants of the further shader `i`.
    pub fn further_constants(&self, i: usize) -> &'a [u32] {
        self.further.get(i).map_or(&[], |(_, constants)| constants)
    }

    /// Appends a dispatch of the further shader `i`.
    pub fn dispatch_further(
        &mut self,
        i: usize,
        args: &Args<'_>,
        groups: [u32; 3],
        accesses: &[Access],
    ) -> Result<()> {
        let Some((pipeline, _)) = self.further.get(i) else {
            return Err(self.refuse(format!("it has no further shader {i}")));
        };
        let (binds, push) = (&args.binds, &args.push);
        Ok(self
            .recorder
            .dispatch(self.key, pipeline, binds, push, groups, accesses)?)
    }
}

/// The step word that counts an operand's rows; relative to the step buffer.
pub fn rows_word(from: RowsFrom) -> Option<u32> {
    match from {
        RowsFrom::Fixed => None,
        RowsFrom::Batch => Some(registry::StepLayout::ROWS as u32),
        RowsFrom::Logits => Some(registry::StepLayout::LOGIT_ROWS as u32),
    }
}
