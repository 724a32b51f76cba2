//! Feed-forward parts: one gated MLP, or a mixture of them.

use graph::{Activation, GraphError, Op, RouteSpec, ValueId};

use super::{Part, Wiring};
use crate::spec::{Dense, Moe};

impl Wiring<'_> {
    pub(super) fn dense(
        &mut self,
        layer: usize,
        d: &Dense,
        h: ValueId,
    ) -> Result<ValueId, GraphError> {
        let part = Part {
            layer,
            group: "mlp",
            tensors: "mlp",
        };
        self.gated_mlp(&part, "", h, d.intermediate, d.bias)
    }

    /// The MLP whose tensors are called `prefix` and gate, up or down.
    fn gated_mlp(
        &mut self,
        part: &Part,
        prefix: &str,
        h: ValueId,
        wide: usize,
        bias: bool,
    ) -> Result<ValueId, GraphError> {
        let hidden = self.spec.hidden_size;
        let name = |name: &str| format!("{prefix}{name}");
        let size = (vec![wide], hidden);
        let gate = self.linear(part, &name("gate_proj"), h, size.clone(), bias)?;
        let up = self.linear(part, &name("up_proj"), h, size, bias)?;
        let op = Op::GatedMul(self.spec.activation);
        let node = part.node(&name(op.kind().name()));
        let h = self.b.op(&node, op, &[gate, up])?;
        self.linear(part, &name("down_proj"), h, (vec![hidden], wide), bias)
    }

    pub(super) fn moe(&mut self, layer: usize, m: &Moe, h: ValueId) -> Result<ValueId, GraphError> {
        let hidden = self.spec.hidden_size;
        let part = Part {
            layer,
            group: "mlp",
            tensors: "mlp",
        };
        let size = (vec![m.experts], hidden);
        let logits = self.linear(&part, "gate", h, size, m.router_bias)?;
        let mut inputs = vec![logits];
        if m.selection_bias {
            let bias = part.tensor("gate.e_score_correction_bias");
            inputs.push(self.vector(&bias, m.experts)?);
        }
        let route = Op::Route(RouteSpec {
            top_k: m.top_k,
            score: m.score,
            normalise: m.normalise,
            scale: m.scale,
            groups: m.groups,
        });
        let routed = self.b.op_all(&part.node("route"), route, &inputs)?;
        let (weights, chosen) = (routed[0], routed[1]);
        let mut expert = |name: &str, x: ValueId, n: usize, k: usize| {
            self.experts(&part, name, (x, chosen), (m.experts, n, k), m.expert_bias)
        };
        let gate = expert("experts.gate_proj", h, m.intermediate, hidden)?;
        let up = expert("experts.up_proj", h, m.intermediate, hidden)?;
        let op = Op::GatedMul(m.activation);
        let node = part.node(&format!("experts.{}", op.kind().name()));
        let y = self.b.op(&node, op, &[gate, up])?;
        let mut expert = |name: &str, x: ValueId, n: usize, k: usize| {
            self.experts(&part, name, (x, chosen), (m.experts, n, k), m.expert_bias)
        };
        let y = expert("experts.down_proj", y, hidden, m.intermediate)?;
        let node = part.node("expert_sum");
        let y = self.b.op(&node, Op::ExpertSum, &[y, weights])?;
        let Some(shared) = &m.shared else {
            return Ok(y);
        };
        let mut s = self.gated_mlp(&part, "shared_expert.", h, shared.intermediate, false)?;
        if shared.gate {
            let size = (vec![1], hidden);
            let gate = self.linear(&part, "shared_expert_gate", h, size, false)?;
            let op = Op::GatedMul(Activation::Sigmoid);
            s = self.b.op(&part.node("sigmoid_mul"), op, &[gate, s])?;
        }
        self.b.op(&part.node("add_shared"), Op::Add, &[y, s])
    }

    /// Projects `x` with the matrices `[n, k]` of the experts chosen for each row.
    fn experts(
        &mut self,
        part: &Part,
        name: &str,
        (x, chosen): (ValueId, ValueId),
        (experts, n, k): (usize, usize, usize),
        bias: bool,
    ) -> Result<ValueId, GraphError> {
        let tensor = part.tensor(name);
        let rows = experts * n;
        let weight = format!("{tensor}.weight");
        let x = self.rotate(&part.node(name), &weight, x, k)?;
        let mut inputs = vec![x, self.matrix(&weight, rows, k)?, chosen];
        if bias {
            inputs.push(self.vector(&format!("{tensor}.bias"), rows)?);
        }
        self.b
            .op(&part.node(name), Op::ExpertLinear { experts }, &inputs)
    }
}
