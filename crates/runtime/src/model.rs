//! From a model's files to a runner.

use crate::device::{self, Chosen};
use crate::error::RuntimeError;
use crate::footprint::check_memory;
use crate::placement::{Division, Placement};
use crate::runner::Runner;
use formats::ModelFiles;
use graph::{Graph, ValueId, ValueKind};
use hal::DeviceInfo;
use planner::{ActMap, Limits, PlanOptions, Program, Second};
use registry::{OpenOptions, Registry, Scheme, Tuned};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Context when nobody asks for one: what the model allows, up to this.
pub use models::DEFAULT_CONTEXT;

/// Hears of bytes loaded and bytes in all.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// A backend's name, or `auto`.
    pub backend: String,
    pub open: OpenOptions,
    /// Tokens of the longest sequence; by default the model's own limit, up to
    /// [`DEFAULT_CONTEXT`].
    pub context: Option<usize>,
    /// Most tokens of one step; by default what the backend says.
    pub rows: Option<usize>,
    pub sequences: usize,
    /// Recurrent states kept beside the last one, for draft tokens that may be
    /// taken back.
    pub drafts: usize,
    pub all_logits: bool,
    pub fusion: bool,
    pub kv: Option<String>,
    pub acts: Option<ActMap>,
    /// Replaces the built-in picks of the device.
    pub tuned: Option<Tuned>,
    /// What lies on a second backend; nothing if `None`.
    pub placement: Option<Placement>,
}

impl LoadOptions {
    pub fn new(backend: impl Into<String>) -> Self {
        let limits = Limits::default();
        LoadOptions {
            backend: backend.into(),
            open: OpenOptions::default(),
            context: None,
            rows: None,
            sequences: limits.sequences,
            drafts: limits.drafts,
            all_logits: limits.all_logits,
            fusion: true,
            kv: None,
            acts: None,
            tuned: None,
            placement: None,
        }
    }
}

/// A model's files, read and checked, on no device yet.
pub struct Opened {
    pub files: ModelFiles,
    pub model: models::Model,
    pub graph: Arc<Graph>,
    schemes: HashMap<ValueId, Scheme>,
}

impl Opened {
    /// Opens a model folder or a GGUF file; see [`ModelFiles::open`].
    pub fn open(path: &Path) -> Result<Self, RuntimeError> {
        Self::from_files(ModelFiles::open(path)?)
    }

    /// Reads a model whose files are open, or whose tensors were made.
    pub fn from_files(mut files: ModelFiles) -> Result<Self, RuntimeError> {
        let model = models::read(&mut files)?;
        Self::assemble(files, model)
    }

    /// The same model cut to its first layers, see [`models::Model::first_layers`]; the files are
    /// shared.
    pub fn first_layers(&self, layers: usize) -> Result<Self, RuntimeError> {
        Self::assemble(self.files.clone(), self.model.first_layers(layers)?)
    }

    fn assemble(files: ModelFiles, model: models::Model) -> Result<Self, RuntimeError> {
        let graph = Arc::new(model.graph.clone());
        let mut schemes = HashMap::new();
        for (id, v) in graph.weights() {
            if let ValueKind::Weight {
                tensor,
                matrix: true,
            } = &v.kind
                && let Some(t) = files.tensors.get(tensor)
            {
                let scheme = Scheme::find(t.info.scheme()).ok_or_else(|| RuntimeError::Weight {
                    tensor: tensor.clone(),
                    reason: format!(
                        "is stored as {}, for which there are no kernels: convert the model to \
                         a floating-point type",
                        t.info.scheme()
                    ),
                })?;
                schemes.insert(id, scheme);
            }
        }
        Ok(Opened {
            files,
            model,
            graph,
            schemes,
        })
    }

    /// The context a load with these options gets.
    pub fn context(&self, options: &LoadOptions) -> usize {
        let own = self.model.context_length.min(DEFAULT_CONTEXT);
        options.context.unwrap_or(own)
    }

    /// The graph for sequences of up to `context` tokens. Its values are those of
    /// [`graph`](Self::graph), some constants apart.
    fn graph_for(&self, context: usize) -> Result<Arc<Graph>, RuntimeError> {
        match self.model.depends_on_context() {
            true => Ok(Arc::new(self.model.graph_for(context)?)),
            false => Ok(self.graph.clone()),
        }
    }

    /// Plans for that device without opening it, and for a second one if the options
    /// put something there.
    pub fn plan(
        &self,
        registry: &Registry,
        backend: &str,
        device: &DeviceInfo,
        options: &LoadOptions,
    ) -> Result<Program, RuntimeError> {
        let context = self.context(options);
        let rows = match options.rows {
            Some(rows) => rows,
            None => registry.backend(backend)?.rows,
        };
        let tuned = |backend: &str, device: &DeviceInfo| match &options.tuned {
            Some(t) => Ok(t.clone()),
            None => Tuned::for_device(backend, &device.name),
        };
        let second = match (self.division(options)?, &options.placement) {
            (Division::Both(split), Some(placement)) => {
                let backend = registry.backend(&placement.second)?;
                let device = device::find_second(backend, &options.open)?;
                Some(Second {
                    backend: placement.second.clone(),
                    tuned: tuned(&placement.second, &device)?,
                    device: Arc::new(device),
                    split,
                })
            }
            _ => None,
        };
        let plan_options = PlanOptions {
            backend: backend.into(),
            fusion: options.fusion,
            kv: options.kv.clone(),
            limits: Limits {
                context,
                rows: rows
                    .min(context.saturating_mul(options.sequences.max(1)))
                    .max(options.sequences),
                sequences: options.sequences,
                all_logits: options.all_logits,
                drafts: options.drafts,
                ..Limits::default()
            },
            tuned: tuned(backend, device)?,
            acts: options.acts.clone(),
            second,
        };
        let device = Arc::new(device.clone());
        let program = planner::plan(
            self.graph_for(context)?,
            &self.schemes,
            registry,
            device,
            &plan_options,
        )?;
        Ok(program)
    }

    /// Chooses a device, plans, and refuses before loading if memory is short.
    pub fn place(
        &self,
        registry: &Registry,
        options: &LoadOptions,
    ) -> Result<(Chosen, Program), RuntimeError> {
        let (options, mut notes) = self.settle(options)?;
        let options = &options;
        let mut placed = None;
        let mut chosen = device::choose(
            registry,
            &options.backend,
            &options.open,
            &mut |backend, device| {
                let p = self.plan(registry, backend.name, device.info(), options)?;
                let devices = device::with_second(device.clone(), &p, &options.open)?;
                let mut checked = check_memory(&p, &devices);
                if let Err(RuntimeError::Memory { instead, .. }) = &mut checked {
                    *instead = self.fitting(registry, backend, device, options).into();
                }
                checked?;
                placed = Some((p, devices.into_iter().nth(1)));
                Ok(())
            },
        )?;
        notes.append(&mut chosen.notes);
        chosen.notes = notes;
        // `choose` succeeds only after `fits` did.
        let (program, second) = placed.ok_or_else(|| {
            RuntimeError::Hal(hal::HalError::NoDevice {
                api: device::AUTO,
                reason: "no device was planned for".into(),
            })
        })?;
        chosen.second = second;
        Ok((chosen, program))
    }

    /// Loads the model on the device that the options ask for.
    pub fn load(
        &self,
        registry: &Registry,
        options: &LoadOptions,
        progress: Progress<'_>,
    ) -> Result<Model, RuntimeError> {
        let (chosen, program) = self.place(registry, options)?;
        let runner = Runner::load_on(
            chosen.devices(),
            Arc::new(program),
            &self.files.tensors,
            progress,
        )?;
        Ok(Model {
            runner,
            notes: chosen.notes,
        })
    }
}

/// A loaded model.
pub struct Model {
    pub runner: Runner,
    /// Why `auto` passed over other backends.
    pub notes: Vec<String>,
}
