//! Dividing a model between two backends, because it does not fit on one.

use crate::device;
use crate::error::RuntimeError;
use crate::footprint::{check_memory, known_to_fit};
use crate::model::{LoadOptions, Opened};
use graph::OpKind;
use hal::{Device, DeviceKind};
use planner::{Program, Split};
use registry::{Backend, Registry};
use std::sync::Arc;

/// What of a model lies on a second backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The second backend. It is opened only if something lies there.
    pub second: String,
    /// Layers on the first backend, counted from the last, with their caches. What is
    /// before and behind the layers goes along only where this is more than the model
    /// has. `None` is everything.
    pub gpu_layers: Option<usize>,
    /// First layers whose experts' matrices lie on the second backend.
    pub cpu_experts: usize,
}

impl Placement {
    /// Everything on the first backend.
    pub fn new(second: impl Into<String>) -> Self {
        Placement {
            second: second.into(),
            gpu_layers: None,
            cpu_experts: 0,
        }
    }

    /// Whether it puts anything on the second backend or says where all is to lie.
    pub fn is_given(&self) -> bool {
        self.gpu_layers.is_some() || self.cpu_experts > 0
    }
}

/// What a placement means for a model.
pub(crate) enum Division {
    First,
    Second,
    Both(Split),
}

impl Opened {
    pub(crate) fn division(&self, options: &LoadOptions) -> Result<Division, RuntimeError> {
        let Some(placement) = &options.placement else {
            return Ok(Division::First);
        };
        let layers = self.model.layers;
        if placement.cpu_experts > 0 && !self.has_experts() {
            return Err(RuntimeError::Placement(format!(
                "--cpu-experts {}: this {} has no experts: leave it away, or divide the model \
                 with --gpu-layers 0 to {layers}",
                placement.cpu_experts, self.model.architecture
            )));
        }
        let on_first = placement.gpu_layers.unwrap_or(usize::MAX);
        let split = Split {
            layers: layers.saturating_sub(on_first),
            ends: on_first <= layers,
            experts: placement.cpu_experts.min(layers),
        };
        Ok(match split {
            _ if on_first == 0 => Division::Second,
            split if split == Split::default() => Division::First,
            split => Division::Both(split),
        })
    }

    fn has_experts(&self) -> bool {
        let mut nodes = self.graph.nodes().iter();
        nodes.any(|n| n.op.kind() == OpKind::ExpertLinear)
    }

    /// The options that a load has in effect, and a line for each number that was
    /// larger than the model: where everything lies on the second backend, it is the
    /// only one.
    pub fn settle(
        &self,
        options: &LoadOptions,
    ) -> Result<(LoadOptions, Vec<String>), RuntimeError> {
        let mut options = options.clone();
        let mut notes = Vec::new();
        let layers = self.model.layers;
        if let Some(placement) = &mut options.placement {
            // The largest number says "all".
            let too_many = |n: &usize| *n > layers + 1 && *n != usize::MAX;
            if let Some(n) = placement.gpu_layers.filter(too_many) {
                notes.push(format!(
                    "--gpu-layers {n}: the model has {layers} layers; all of it lies on the GPU"
                ));
            }
            if too_many(&placement.cpu_experts) {
                notes.push(format!(
                    "--cpu-experts {}: the model has {layers} layers; the experts of all lie on \
                     the CPU",
                    placement.cpu_experts
                ));
            }
            placement.gpu_layers = placement.gpu_layers.map(|n| n.min(layers + 1));
            placement.cpu_experts = placement.cpu_experts.min(layers);
        }
        if let (Division::Second, Some(placement)) = (
            self.division(&options)?,
            options.placement.take_if(|p| p.gpu_layers == Some(0)),
        ) {
            notes.push(format!(
                "--gpu-layers 0: all of the model lies on {}",
                placement.second
            ));
            options.backend = placement.second;
            options.open.device = None;
        }
        Ok((options, notes))
    }

    /// A division that would fit where the whole model does not, as the flags that
    /// ask for it with a comma behind them; empty if there is none.
    pub(crate) fn fitting(
        &self,
        registry: &Registry,
        backend: &'static Backend,
        first: &Arc<dyn Device>,
        options: &LoadOptions,
    ) -> String {
        let Some(placement) = &options.placement else {
            return String::new();
        };
        // Memory of the same host, which is short already.
        if first.info().kind == DeviceKind::Cpu {
            return String::new();
        }
        let plan = |placement: Placement| -> Option<Program> {
            let mut options = options.clone();
            options.placement = Some(placement);
            self.plan(registry, backend.name, first.info(), &options)
                .ok()
        };
        let fits = |p: &Placement| {
            let program = plan(p.clone());
            program.is_some_and(|p| known_to_fit(&p, 0, &**first))
        };
        // The estimate leaves out what kernels want to work with.
        let surely = |p: &Placement| {
            let devices = |p: &Program| device::with_second(first.clone(), p, &options.open);
            let program = plan(p.clone());
            program.is_some_and(|p| devices(&p).is_ok_and(|d| check_memory(&p, &d).is_ok()))
        };
        let layers = self.model.layers;
        let mut ways = Vec::new();
        if self.has_experts() && placement.gpu_layers.is_none() {
            let with = |n: usize| Placement {
                cpu_experts: n,
                ..placement.clone()
            };
            // The fewest layers whose experts must go.
            let n = least(placement.cpu_experts.saturating_add(1), layers, |n| {
                fits(&with(n))
            });
            let found = (n..=layers).take(3).find(|n| surely(&with(*n)));
            ways.extend(found.map(|n| format!("--cpu-experts {n}, ")));
        }
        let with = |n: usize| Placement {
            gpu_layers: Some(n),
            ..placement.clone()
        };
        let most = placement.gpu_layers.unwrap_or(layers + 1).min(layers + 1);
        // The fewest layers that must go, of those that stay.
        let gone = least(1, most, |gone| fits(&with(most - gone)));
        let found = (gone..most).take(3).find(|gone| surely(&with(most - gone)));
        ways.extend(found.map(|gone| format!("--gpu-layers {}, ", most - gone)));
        ways.concat()
    }
}

/// The least number from `from` that holds, where all above it hold as well; one
/// above `to` if none does.
fn least(from: usize, to: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (from, to + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        match holds(middle) {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::least;

    #[test]
    fn the_least_that_holds_is_found() {
        for (from, to, edge) in [(1, 12, 1), (1, 12, 5), (1, 12, 12), (3, 3, 3), (1, 40, 41)] {
            assert_eq!(least(from, to, |n| n >= edge), edge, "{from} {to}");
        }
    }
}
