//! Mixers that keep a state of fixed size instead of a cache that grows.

use graph::{Activation, CacheSpec, ConvSpec, DeltaSpec, GraphError, Op, ValueId};

use super::{Part, Wiring};
use crate::spec::{DeltaNet, ShortConv};

impl Wiring<'_> {
    /// The convolution over q, k and v is depthwise, hence three of them; each keeps its own state
    /// (parts 0, 1 and 2 of the layer's), the delta rule the fourth.
    pub(super) fn delta_net(
        &mut self,
        layer: usize,
        d: &DeltaNet,
        h: ValueId,
    ) -> Result<ValueId, GraphError> {
        let hidden = self.spec.hidden_size;
        let part = Part {
            layer,
            group: "delta",
            tensors: "linear_attn",
        };
        let keys = vec![d.key_heads, d.key_dim];
        let values = vec![d.value_heads, d.value_dim];
        let mut project = |name: &str, out: &[usize]| {
            let name = format!("in_proj.{name}");
            self.linear(&part, &name, h, (out.to_vec(), hidden), false)
        };
        let q = project("q", &keys)?;
        let k = project("k", &keys)?;
        let v = project("v", &values)?;
        let z = project("z", &values)?;
        let b = project("b", &[d.value_heads])?;
        let a = project("a", &[d.value_heads])?;
        let conv = ConvSpec {
            kernel: d.kernel,
            silu: true,
        };
        let q = self.conv(&part, "conv1d.q", (q, d.key_width()), conv, 0, None)?;
        let k = self.conv(&part, "conv1d.k", (k, d.key_width()), conv, 1, None)?;
        let v = self.conv(&part, "conv1d.v", (v, d.value_width()), conv, 2, None)?;
        let decay = self.vector(&part.tensor("A_log"), d.value_heads)?;
        let dt_bias = self.vector(&part.tensor("dt_bias"), d.value_heads)?;
        let len = d.value_heads * d.key_dim * d.value_dim;
        let state = self.b.cache(CacheSpec::state(layer, 3, len));
        let op = Op::GatedDelta(DeltaSpec {
            log_decay: d.log_decay,
            tiled: d.tiled,
        });
        let inputs = [q, k, v, a, b, decay, dt_bias, state];
        let o = self.b.op(&part.node("gated_delta"), op, &inputs)?;
        // This norm takes its weight as it is, whatever the model's others do.
        let norm = (self.spec.rms_norm_eps, 0.0);
        let weight = part.tensor("norm.weight");
        let o = self.norm_with(&part.node("norm"), &weight, o, d.value_dim, norm)?;
        let op = Op::GatedMul(Activation::Silu);
        let o = self.b.op(&part.node("silu_mul"), op, &[z, o])?;
        let size = (vec![hidden], d.value_width());
        self.linear(&part, "out_proj", o, size, false)
    }

    pub(super) fn short_conv(
        &mut self,
        layer: usize,
        c: &ShortConv,
        h: ValueId,
    ) -> Result<ValueId, GraphError> {
        let hidden = self.spec.hidden_size;
        let part = Part {
            layer,
            group: "conv",
            tensors: "conv",
        };
        let mut project = |name: &str| {
            let name = format!("in_proj.{name}");
            self.linear(&part, &name, h, (vec![hidden], hidden), c.bias)
        };
        let b = project("b")?;
        let c_gate = project("c")?;
        let x = project("x")?;
        let product = Op::GatedMul(Activation::Identity);
        let bx = self.b.op(&part.node("b_mul"), product.clone(), &[b, x])?;
        let conv = ConvSpec {
            kernel: c.kernel,
            silu: false,
        };
        let bias = match c.bias {
            true => Some(self.vector(&part.tensor("conv.bias"), hidden)?),
            false => None,
        };
        let y = self.conv(&part, "conv.taps", (bx, hidden), conv, 0, bias)?;
        let y = self.b.op(&part.node("c_mul"), product, &[c_gate, y])?;
        self.linear(&part, "out_proj", y, (vec![hidden], hidden), c.bias)
    }

    /// Convolves `x`, which has so many channels, with the taps called `name`.
    fn conv(
        &mut self,
        part: &Part,
        name: &str,
        (x, channels): (ValueId, usize),
        spec: ConvSpec,
        state: usize,
        bias: Option<ValueId>,
    ) -> Result<ValueId, GraphError> {
        let taps = part.tensor(&format!("{name}.weight"));
        let taps = self.vector(&taps, channels * spec.kernel)?;
        let len = (spec.kernel - 1) * channels;
        let state = self.b.cache(CacheSpec::state(part.layer, state, len));
        let mut inputs = vec![x, taps, state];
        inputs.extend(bias);
        self.b.op(&part.node(name), Op::CausalConv(spec), &inputs)
    }
}
