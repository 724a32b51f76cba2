//! A plan as text or JSON: each step's key, shapes, bytes, and why it was chosen.

use crate::plan::{Memory, Plan, Program};
use registry::{OperandRole, RowRange, RowsFrom};
use serde::Serialize;
use std::fmt;

#[derive(Serialize)]
pub struct StepReport {
    pub key: String,
    pub nodes: Vec<String>,
    /// `[rows, K] × [N, K]`-style shapes of inputs and outputs.
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub act: &'static str,
    /// Bytes of operands read and written at the bucket's largest row count: what an
    /// embedding looks up, not its whole table; caches aside, whose share depends on
    /// the depth.
    pub bytes: u64,
    /// Of matrix products.
    pub flops: u64,
    pub why: registry::Why,
    pub source: &'static str,
}

/// A device and the part of the model that it holds.
#[derive(Serialize)]
pub struct TargetReport {
    pub backend: &'static str,
    pub device: String,
    /// As people say it: "layers 3 to 7 and the output head".
    pub holds: String,
    pub memory: Memory,
}

/// An activation that comes from another target before a segment.
#[derive(Serialize)]
pub struct CopyReport {
    pub value: String,
    /// Index of the segment that computed it.
    pub from: usize,
    pub row_bytes: u64,
    /// For the rows whose outputs are wanted, not for all.
    pub output_rows: bool,
}

/// A run of steps on one target.
#[derive(Serialize)]
pub struct SegmentReport {
    /// Index into [`PlanReport::targets`].
    pub target: usize,
    pub backend: &'static str,
    pub first_step: usize,
    pub steps: usize,
    pub copies: Vec<CopyReport>,
}

#[derive(Serialize)]
pub struct PlanReport {
    /// Of the first target.
    pub backend: &'static str,
    pub device: String,
    pub rows_min: usize,
    pub rows_max: usize,
    /// Of all targets.
    pub arena_bytes: u64,
    pub memory: Memory,
    pub kv: &'static str,
    pub targets: Vec<TargetReport>,
    pub segments: Vec<SegmentReport>,
    pub steps: Vec<StepReport>,
}

impl Program {
    /// Each target with what lies on it.
    pub fn target_reports(&self) -> Vec<TargetReport> {
        let targets = self.targets().into_iter().enumerate();
        targets
            .map(|(i, t)| TargetReport {
                backend: t.backend.name,
                device: t.device.name.clone(),
                holds: self.holds(i),
                memory: self.memory_on(i),
            })
            .collect()
    }

    /// What lies on a target.
    fn holds(&self, target: usize) -> String {
        let Some((_, split)) = &self.second else {
            return "the whole model".into();
        };
        let layers = self.graph.nodes().iter().filter_map(|n| n.layer).max();
        let layers = layers.map_or(0, |last| last + 1);
        let edge = split.layers.min(layers);
        let range = |what: &str, from: usize, to: usize| match to.saturating_sub(from) {
            0 => None,
            1 => Some(format!("{what} {from}")),
            _ => Some(format!("{what}s {from} to {}", to - 1)),
        };
        let ends = (split.ends == (target == 1)).then_some(());
        let experts = range("layer", edge, split.experts.min(layers));
        let parts = match target {
            0 => [
                ends.map(|()| "the embeddings".into()),
                range("layer", edge, layers),
                experts.map(|l| format!("without the experts of {l}")),
                ends.map(|()| "the output head".into()),
            ],
            _ => [
                ends.map(|()| "the embeddings".into()),
                range("layer", 0, edge),
                experts.map(|l| format!("the experts of {l}")),
                ends.map(|()| "the output head".into()),
            ],
        };
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        match parts.is_empty() {
            true => "nothing".into(),
            false => parts.join(", "),
        }
    }

    fn segment_reports(&self, plan: &Plan) -> Vec<SegmentReport> {
        let targets = self.targets();
        let copies = |to: usize| {
            let here = plan.copies.iter().filter(move |c| c.to == to);
            here.map(|c| CopyReport {
                value: self.graph.value(c.value).name.clone(),
                from: c.from,
                row_bytes: c.row_bytes,
                output_rows: c.rows == RowsFrom::Logits,
            })
        };
        let segments = plan.segments.iter().enumerate();
        segments
            .map(|(i, s)| SegmentReport {
                target: s.target,
                backend: targets[s.target].backend.name,
                first_step: s.steps.start,
                steps: s.steps.len(),
                copies: copies(i).collect(),
            })
            .collect()
    }

    pub fn report(&self, plan: &Plan) -> PlanReport {
        let RowRange { min, max } = plan.rows;
        let shapes = |list: &[registry::Operand]| -> Vec<String> {
            list.iter()
                .map(|o| {
                    let dims: Vec<_> = o.shape.iter().map(|d| d.to_string()).collect();
                    match o.role {
                        OperandRole::Cache => format!("{} cache", o.scheme),
                        OperandRole::Matrix => {
                            format!("{}[{}] {}", o.scheme, dims.join(","), o.layout)
                        }
                        _ => format!("{}[{}]", o.scheme, dims.join(",")),
                    }
                })
                .collect()
        };
        let steps = plan
            .steps
            .iter()
            .map(|s| StepReport {
                key: s.key.to_string(),
                nodes: s
                    .nodes
                    .iter()
                    .map(|n| self.graph.node(*n).name.clone())
                    .collect(),
                inputs: shapes(&s.problem.inputs),
                outputs: shapes(&s.problem.outputs),
                act: s.kernel.spec().act.name(),
                bytes: s.problem.bytes(max),
                flops: s.problem.flops(max),
                why: s.why,
                source: s.file,
            })
            .collect();
        PlanReport {
            backend: self.backend.name,
            device: self.device.name.clone(),
            rows_min: min,
            rows_max: max,
            arena_bytes: plan.arenas.iter().sum(),
            memory: self.memory(),
            kv: self.cache.scheme.0,
            targets: self.target_reports(),
            segments: self.segment_reports(plan),
            steps,
        }
    }
}

impl fmt::Display for PlanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "plan rows {}..={} on {} ({}): {} steps, arena {} bytes, kv {}",
            self.rows_min,
            self.rows_max,
            self.backend,
            self.device,
            self.steps.len(),
            self.arena_bytes,
            self.kv
        )?;
        if self.segments.len() > 1 {
            for t in &self.targets {
                writeln!(f, "  {t}")?;
            }
        }
        for (i, s) in self.steps.iter().enumerate() {
            let begins = self.segments.iter().position(|g| g.first_step == i);
            if let Some(at) = begins.filter(|_| self.segments.len() > 1) {
                self.segments[at].write(f, at)?;
            }
            writeln!(
                f,
                "{i:4}  {:<72} {:>10} B {:>12} flop  act {:<5} {:<8}  {}",
                s.key,
                s.bytes,
                s.flops,
                s.act,
                s.why.to_string(),
                s.nodes.join(" + ")
            )?;
            writeln!(
                f,
                "      {} -> {}",
                s.inputs.join(", "),
                s.outputs.join(", ")
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for TargetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = &self.memory;
        write!(
            f,
            "{} ({}) holds {}: weights {} B, caches {} B, activations {} B",
            self.backend, self.device, self.holds, m.weights, m.cache, m.activations
        )
    }
}

impl SegmentReport {
    fn write(&self, f: &mut fmt::Formatter<'_>, index: usize) -> fmt::Result {
        write!(
            f,
            "segment {index} on {}: {} steps",
            self.backend, self.steps
        )?;
        for c in &self.copies {
            let rows = if c.output_rows {
                "an output row"
            } else {
                "a row"
            };
            write!(
                f,
                "; after a copy of {} from segment {}, {} B {rows}",
                c.value, c.from, c.row_bytes
            )?;
        }
        writeln!(f)
    }
}
