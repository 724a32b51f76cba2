//! A plan as text or JSON: each step's key, shapes, bytes, and why it was chosen.

use crate::plan::{Memory, Plan, Program};
use registry::{OperandRole, RowRange};
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

#[derive(Serialize)]
pub struct PlanReport {
    pub backend: &'static str,
    pub device: String,
    pub rows_min: usize,
    pub rows_max: usize,
    pub arena_bytes: u64,
    pub memory: Memory,
    pub kv: &'static str,
    pub steps: Vec<StepReport>,
}

impl Program {
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
            arena_bytes: plan.arena_bytes,
            memory: self.memory(),
            kv: self.cache.scheme.0,
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
        for (i, s) in self.steps.iter().enumerate() {
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
