//! From a specification to a graph.

mod attention;
mod ffn;
mod latent;
mod recurrent;

use std::collections::{HashMap, HashSet};

use graph::{Graph, GraphBuilder, GraphError, Op, RopeSpec, ValueId};

use crate::paro::Paro;
use crate::spec::{Ffn, LayerSpec, Mixer, ModelSpec};

/// Logits that sampling may ask for in place of a row.
const LARGEST: usize = 64;

/// Sums that a row of logits is cut into: enough to go round a device.
const PARTS: usize = 64;

/// Names of the tensors outside the layers.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const FINAL_NORM: &str = "model.norm.weight";
pub(crate) const LM_HEAD: &str = "lm_head.weight";
/// What the names of a layer's tensors start with, before its number.
pub(crate) const LAYERS: &str = "model.layers.";

/// A graph under construction.
pub(crate) struct Wiring<'a> {
    b: GraphBuilder,
    /// From a tensor's Hugging Face name to its name in the files at hand.
    rename: fn(&str) -> String,
    spec: &'a ModelSpec,
    context: usize,
    /// The table of each rotary setting.
    tables: HashMap<usize, ValueId>,
    /// Rotated inputs of packed projections, by the input and the rotation.
    rotated: HashMap<(ValueId, String), ValueId>,
}

/// Where a part of a layer lies: its nodes and its tensors.
struct Part {
    layer: usize,
    /// Of nodes.
    group: &'static str,
    /// Of tensors.
    tensors: &'static str,
}

impl Part {
    fn node(&self, op: &str) -> String {
        format!("layers.{}.{}.{op}", self.layer, self.group)
    }

    fn tensor(&self, name: &str) -> String {
        format!("{LAYERS}{}.{}.{name}", self.layer, self.tensors)
    }
}

impl<'a> Wiring<'a> {
    pub(crate) fn new(
        b: GraphBuilder,
        rename: fn(&str) -> String,
        spec: &'a ModelSpec,
        context: usize,
    ) -> Self {
        Wiring {
            b,
            rename,
            spec,
            context,
            tables: HashMap::new(),
            rotated: HashMap::new(),
        }
    }

    pub(crate) fn build(mut self) -> Result<Graph, GraphError> {
        let spec = self.spec;
        let embedding = self.matrix(EMBEDDING, spec.vocab_size, spec.hidden_size)?;
        let mut x = self.b.op("embed_tokens", Op::Embed, &[embedding])?;
        x = self.scale("embed_scale", spec.embedding_scale, x)?;
        self.rope_tables()?;
        for (i, layer) in spec.layers.iter().enumerate() {
            self.b.layer(Some(i));
            x = self.layer(i, layer, x)?;
        }
        self.b.layer(None);
        let x = self.b.op("gather_rows", Op::GatherRows, &[x])?;
        let x = self.norm("norm", FINAL_NORM, x, spec.hidden_size)?;
        let head = match spec.tied_embeddings {
            true => embedding,
            false => self.matrix(LM_HEAD, spec.vocab_size, spec.hidden_size)?,
        };
        let out = vec![spec.vocab_size];
        let mut logits = self.b.op("lm_head", Op::Linear { out }, &[x, head])?;
        logits = self.scale("logits_scale", spec.logits_scale, logits)?;
        if let Some(cap) = spec.logits_softcap {
            logits = self
                .b
                .op("logits_softcap", Op::SoftCap { cap }, &[logits])?;
        }
        let argmax = self.b.op("argmax", Op::ArgMax, &[logits])?;
        self.b.output("logits", logits);
        self.b.output("argmax", argmax);
        let top = self.b.op("top_k", Op::TopK { k: LARGEST }, &[logits])?;
        self.b.output("top_k", top);
        let sums = Op::ExpSum { parts: PARTS };
        let sums = self.b.op("exp_sum", sums, &[logits, top])?;
        self.b.output("exp_sum", sums);
        self.b.finish()
    }

    /// The tables that a layer uses: the first layers of a hybrid may rotate nothing.
    fn rope_tables(&mut self) -> Result<(), GraphError> {
        let used: HashSet<usize> = (self.spec.layers.iter())
            .filter_map(|layer| match &layer.mixer {
                Mixer::Attention(a) => a.rope,
                Mixer::Latent(l) => Some(l.rope),
                Mixer::Delta(_) | Mixer::Conv(_) => None,
            })
            .collect();
        let ropes = self.spec.ropes.iter().enumerate();
        for (i, rope) in ropes.filter(|(i, _)| used.contains(i)) {
            let inv_freq = rope.frequencies(self.context).to_vec();
            let inv_freq = self.b.constant(&format!("inv_freq.{i}"), inv_freq);
            let op = Op::RopeTable {
                attention_factor: rope.attention_factor,
            };
            let table = self.b.op(&format!("rope_table.{i}"), op, &[inv_freq])?;
            self.tables.insert(i, table);
        }
        Ok(())
    }

    fn layer(&mut self, i: usize, layer: &LayerSpec, x: ValueId) -> Result<ValueId, GraphError> {
        let norms = self.spec.norms;
        let group = match layer.mixer {
            Mixer::Attention(_) | Mixer::Latent(_) => "attn",
            Mixer::Delta(_) => "delta",
            Mixer::Conv(_) => "conv",
        };
        let h = self.layer_norm(i, &format!("{group}_norm"), norms.before_mixer, x)?;
        let y = match &layer.mixer {
            Mixer::Attention(a) => self.attention(i, a, h)?,
            Mixer::Latent(l) => self.latent(i, l, h)?,
            Mixer::Delta(d) => self.delta_net(i, d, h)?,
            Mixer::Conv(c) => self.short_conv(i, c, h)?,
        };
        let y = self.layer_norm(i, &format!("{group}_post_norm"), norms.after_mixer, y)?;
        let x = self.residual(i, group, x, y)?;
        let h = self.layer_norm(i, "mlp_norm", norms.before_ffn, x)?;
        let y = match &layer.ffn {
            Ffn::Dense(d) => self.dense(i, d, h)?,
            Ffn::Moe(m) => self.moe(i, m, h)?,
        };
        let y = self.layer_norm(i, "mlp_post_norm", norms.after_ffn, y)?;
        self.residual(i, "mlp", x, y)
    }

    /// The norm called `name`, where there is one.
    fn layer_norm(
        &mut self,
        i: usize,
        node: &str,
        name: Option<&str>,
        x: ValueId,
    ) -> Result<ValueId, GraphError> {
        let Some(name) = name else { return Ok(x) };
        let tensor = format!("{LAYERS}{i}.{name}.weight");
        self.norm(
            &format!("layers.{i}.{node}"),
            &tensor,
            x,
            self.spec.hidden_size,
        )
    }

    fn residual(
        &mut self,
        i: usize,
        group: &str,
        x: ValueId,
        y: ValueId,
    ) -> Result<ValueId, GraphError> {
        let node = |op: &str| format!("layers.{i}.{group}.{op}");
        let y = self.scale(&node("residual_scale"), self.spec.residual_scale, y)?;
        self.b.op(&node("add"), Op::Add, &[x, y])
    }

    fn scale(&mut self, node: &str, factor: f32, x: ValueId) -> Result<ValueId, GraphError> {
        match factor {
            1.0 => Ok(x),
            factor => self.b.op(node, Op::Scale { factor }, &[x]),
        }
    }

    fn matrix(&mut self, tensor: &str, n: usize, k: usize) -> Result<ValueId, GraphError> {
        self.b.matrix(&(self.rename)(tensor), n, k)
    }

    fn vector(&mut self, tensor: &str, dim: usize) -> Result<ValueId, GraphError> {
        self.b.vector(&(self.rename)(tensor), dim)
    }

    fn norm(
        &mut self,
        node: &str,
        tensor: &str,
        x: ValueId,
        dim: usize,
    ) -> Result<ValueId, GraphError> {
        let (eps, offset) = (self.spec.rms_norm_eps, self.spec.norm_offset);
        self.norm_with(node, tensor, x, dim, (eps, offset))
    }

    fn norm_with(
        &mut self,
        node: &str,
        tensor: &str,
        x: ValueId,
        dim: usize,
        (eps, weight_offset): (f32, f32),
    ) -> Result<ValueId, GraphError> {
        let weight = self.vector(tensor, dim)?;
        self.b
            .op(node, Op::RmsNorm { eps, weight_offset }, &[x, weight])
    }

    /// Projects `x` with the matrix and, where there is one, the bias of this name. `size` is
    /// (output dimensions, K).
    fn linear(
        &mut self,
        part: &Part,
        name: &str,
        x: ValueId,
        (out, k): (Vec<usize>, usize),
        bias: bool,
    ) -> Result<ValueId, GraphError> {
        let n = out.iter().product();
        let tensor = part.tensor(name);
        let weight = format!("{tensor}.weight");
        let x = self.rotate(&part.node(name), &weight, x, k)?;
        let mut inputs = vec![x, self.matrix(&weight, n, k)?];
        if bias {
            inputs.push(self.vector(&format!("{tensor}.bias"), n)?);
        }
        self.b.op(&part.node(name), Op::Linear { out }, &inputs)
    }

    /// What the weight called `tensor` multiplies: `x` itself, or rotated where the weight is
    /// kept for that. Projections of one input that share a rotation share its result.
    fn rotate(
        &mut self,
        node: &str,
        tensor: &str,
        x: ValueId,
        width: usize,
    ) -> Result<ValueId, GraphError> {
        let Some(paro) = &self.spec.paro else {
            return Ok(x);
        };
        let Some(rotation) = paro.rotations.get(tensor) else {
            return Ok(x);
        };
        let key = (x, rotation.clone());
        if let Some(done) = self.rotated.get(&key) {
            return Ok(*done);
        }
        let (rounds, group) = (paro.rounds, paro.group);
        let [theta, pairs, scales] = Paro::tensors(rotation);
        let inputs = [
            x,
            self.vector(&theta, rounds * width / 2)?,
            self.vector(&pairs, rounds * width)?,
            self.vector(&scales, width)?,
        ];
        let op = Op::Rotate { rounds, group };
        let y = self.b.op(&format!("{node}.rotate"), op, &inputs)?;
        self.rotated.insert(key, y);
        Ok(y)
    }

    fn rope(&mut self, node: &str, rope: usize, x: ValueId) -> Result<ValueId, GraphError> {
        let setting = &self.spec.ropes[rope];
        let op = Op::Rope(RopeSpec {
            interleaved: setting.interleaved,
            ..RopeSpec::half_split(setting.rotary_dim)
        });
        self.b.op(node, op, &[x, self.tables[&rope]])
    }
}
