//! Text form of a graph, one node a line, stable between runs.

use crate::value::ValueKind;
use crate::{Graph, Op};
use std::fmt;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "graph {}", self.name)?;
        for node in &self.nodes {
            f.write_str("  ")?;
            for (i, o) in node.outputs.iter().enumerate() {
                let sep = if i > 0 { ", " } else { "" };
                write!(f, "{sep}%{} {}", o.0, self.value(*o).shape)?;
            }
            write!(f, " = {}", node.op.kind())?;
            match &node.op {
                Op::RmsNorm { eps, weight_offset } => {
                    write!(f, "{{eps={eps:e}")?;
                    if *weight_offset != 0.0 {
                        write!(f, ", weight_offset={weight_offset}")?;
                    }
                    f.write_str("}")?;
                }
                Op::RopeTable { attention_factor } if *attention_factor != 1.0 => {
                    write!(f, "{{attention_factor={attention_factor}}}")?;
                }
                Op::Rope(s) => {
                    write!(f, "{{rotary_dim={}", s.rotary_dim)?;
                    if s.first > 0 {
                        write!(f, ", first={}", s.first)?;
                    }
                    let pairs = if s.interleaved { ", interleaved" } else { "" };
                    write!(f, "{pairs}}}")?;
                }
                Op::Scale { factor } => write!(f, "{{factor={factor}}}")?,
                Op::SoftCap { cap } => write!(f, "{{cap={cap}}}")?,
                Op::Route(r) => write!(f, "{{{r:?}}}")?,
                Op::ExpertLinear { experts } => write!(f, "{{experts={experts}}}")?,
                Op::CausalConv(c) => write!(f, "{{{c:?}}}")?,
                Op::GatedDelta(d) => write!(f, "{{{d:?}}}")?,
                Op::LatentAttention { scale } => write!(f, "{{scale={scale}}}")?,
                Op::Rotate { rounds, group } => write!(f, "{{rounds={rounds}, group={group}}}")?,
                Op::Attention(a) => {
                    write!(f, "{{scale={}", a.scale)?;
                    if let Some(w) = a.window {
                        write!(f, ", window={w}")?;
                    }
                    if let Some(cap) = a.softcap {
                        write!(f, ", softcap={cap}")?;
                    }
                    f.write_str("}")?;
                }
                _ => {}
            }
            f.write_str("(")?;
            for (i, v) in node.inputs.iter().enumerate() {
                let sep = if i > 0 { ", " } else { "" };
                let value = self.value(*v);
                match (&value.kind, self.producer(*v)) {
                    (ValueKind::Activation(_), _) | (_, Some(_)) => write!(f, "{sep}%{}", v.0)?,
                    _ => write!(f, "{sep}{} {}", value.name, value.shape)?,
                }
            }
            writeln!(f, ")  # {}", node.name)?;
        }
        for o in &self.outputs {
            writeln!(f, "  return %{} {}", o.0, self.value(*o).name)?;
        }
        Ok(())
    }
}
