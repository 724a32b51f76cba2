//! The dense decoder: one specification with every knob of these families, and its wiring.

use formats::ConfigView;
use graph::{
    Activation, AttentionSpec, CacheSpec, Graph, GraphBuilder, GraphError, Op, RopeSpec, ValueId,
};

use crate::error::{ModelError, Result};
use crate::guard::is_null;
use crate::rope::Rope;

/// Most attention heads that a model may have.
pub const MAX_HEADS: usize = 1 << 16;
/// Largest size of one attention head.
pub const MAX_HEAD_DIM: usize = 1 << 13;
/// Most parameters that a model may have: ten times the largest ones published.
pub const MAX_PARAMETERS: u64 = 1 << 44;

/// Names of the tensors outside the layers.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const FINAL_NORM: &str = "model.norm.weight";
pub(crate) const LM_HEAD: &str = "lm_head.weight";

/// What tells one layer from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerSpec {
    /// Position p sees positions in (p − window, p]; `None` sees all of [0, p].
    pub window: Option<usize>,
    /// Index into [`ModelSpec::ropes`].
    pub rope: usize,
}

/// A decoder-only model with pre-norm attention and a gated MLP in every layer.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of one head; even. `heads · head_dim` need not be `hidden_size`.
    pub head_dim: usize,
    /// Positions that the model was made for (`max_position_embeddings`).
    pub context_length: usize,
    pub rms_norm_eps: f32,
    pub activation: Activation,
    pub qkv_bias: bool,
    pub o_bias: bool,
    /// Biases of gate, up and down.
    pub mlp_bias: bool,
    /// RMS norm over each head of q and k, before the rotation.
    pub qk_norm: bool,
    /// The output head is the embedding matrix.
    pub tied_embeddings: bool,
    /// Distinct rotary settings; each becomes one table, shared by the layers that name it.
    pub ropes: Vec<Rope>,
    pub layers: Vec<LayerSpec>,
}

/// What an absent `num_key_value_heads` means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KvHeads {
    SameAsHeads,
    Count(usize),
}

/// A family's defaults for fields that its configurations may leave out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    pub kv_heads: KvHeads,
    /// `None`: hidden_size / heads.
    pub head_dim: Option<usize>,
    pub context_length: usize,
}

impl ModelSpec {
    /// Reads what all dense families spell alike; no biases, no qk norm, no windows.
    pub(crate) fn read(config: &ConfigView<'_>, defaults: &Defaults) -> Result<Self> {
        let hidden_size = config.usize("hidden_size")?;
        let heads = config.usize_in("num_attention_heads", 1..=MAX_HEADS)?;
        let kv_heads = match config.opt_usize_in("num_key_value_heads", 1..=MAX_HEADS)? {
            Some(n) => n,
            None => match defaults.kv_heads {
                KvHeads::Count(n) if !is_null(config, "num_key_value_heads") => n,
                _ => heads,
            },
        };
        if !heads.is_multiple_of(kv_heads) {
            return Err(ModelError::inconsistent(
                config.file(),
                format!(
                    "`num_attention_heads` is {heads}, not a multiple of `num_key_value_heads`, which is {kv_heads}; correct one of them"
                ),
            ));
        }
        let head_dim = read_head_dim(config, hidden_size, heads, defaults.head_dim)?;
        let context_length = config
            .opt_usize("max_position_embeddings")?
            .unwrap_or(defaults.context_length);
        let layers = config.layers("num_hidden_layers")?;
        Ok(ModelSpec {
            vocab_size: config.usize("vocab_size")?,
            hidden_size,
            intermediate_size: config.usize("intermediate_size")?,
            heads,
            kv_heads,
            head_dim,
            context_length,
            rms_norm_eps: read_eps(config)?,
            activation: read_activation(config)?,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: false,
            tied_embeddings: config.opt_bool("tie_word_embeddings")?.unwrap_or(false),
            ropes: vec![Rope::read(config, head_dim, context_length)?],
            layers: vec![LayerSpec::default(); layers],
        })
    }

    /// Gives each layer its window, in order.
    pub(crate) fn set_windows(&mut self, windows: Vec<Option<usize>>) {
        for (layer, window) in self.layers.iter_mut().zip(windows) {
            layer.window = window;
        }
    }

    /// Stored weights, each counted once.
    pub fn parameters(&self) -> u128 {
        let size = |n: usize| n as u128;
        let flag = |on: bool, n: u128| if on { n } else { 0 };
        let (h, f) = (size(self.hidden_size), size(self.intermediate_size));
        let q = size(self.heads) * size(self.head_dim);
        let kv = size(self.kv_heads) * size(self.head_dim);
        let attention = 2 * h * q + 2 * h * kv;
        let biases =
            flag(self.qkv_bias, q + 2 * kv) + flag(self.o_bias, h) + flag(self.mlp_bias, 2 * f + h);
        let norms = 2 * h + flag(self.qk_norm, 2 * size(self.head_dim));
        let layer = attention + 3 * h * f + biases + norms;
        let embeddings = size(self.vocab_size) * h * if self.tied_embeddings { 1 } else { 2 };
        embeddings + h + layer * self.layers.len() as u128
    }

    /// Wires the forward pass. Outputs: `logits [L, vocab]` and `argmax [L]`.
    ///
    /// Errors: sizes that do not fit each other.
    pub fn graph(&self, name: &str) -> Result<Graph, GraphError> {
        self.graph_named(name, |tensor| tensor.to_string())
    }

    /// [`graph`](Self::graph) with the weights called as `rename` calls them, given the names that
    /// they have in a Hugging Face folder.
    pub(crate) fn graph_named(
        &self,
        name: &str,
        rename: fn(&str) -> String,
    ) -> Result<Graph, GraphError> {
        let mut wiring = Wiring {
            b: GraphBuilder::new(name),
            rename,
            spec: self,
            tables: Vec::new(),
        };
        wiring.build()?;
        wiring.b.finish()
    }
}

fn read_head_dim(
    config: &ConfigView<'_>,
    hidden_size: usize,
    heads: usize,
    default: Option<usize>,
) -> Result<usize> {
    const WANTED: &str = "an even number";
    let given = config.opt_usize_in("head_dim", 1..=MAX_HEAD_DIM)?;
    if given.is_none() && default.is_some() && is_null(config, "head_dim") {
        return Err(config.invalid("head_dim", WANTED).into());
    }
    if let Some(dim) = given.or(default) {
        return match dim.is_multiple_of(2) {
            true => Ok(dim),
            false => Err(config.invalid("head_dim", WANTED).into()),
        };
    }
    let dim = hidden_size / heads;
    if !hidden_size.is_multiple_of(heads) || !dim.is_multiple_of(2) || dim > MAX_HEAD_DIM {
        return Err(ModelError::inconsistent(
            config.file(),
            format!(
                "`hidden_size` {hidden_size} over `num_attention_heads` {heads} makes no even head size up to {MAX_HEAD_DIM}; correct them, or give `head_dim`"
            ),
        ));
    }
    Ok(dim)
}

fn read_eps(config: &ConfigView<'_>) -> Result<f32> {
    match config.opt_positive_f64("rms_norm_eps")? {
        None => Ok(1e-6),
        Some(eps) if eps <= 1.0 => Ok(eps as f32),
        Some(_) => Err(config
            .invalid("rms_norm_eps", "a number above 0 and up to 1")
            .into()),
    }
}

fn read_activation(config: &ConfigView<'_>) -> Result<Activation> {
    match config.opt_str("hidden_act")? {
        None | Some("silu" | "swish") => Ok(Activation::Silu),
        Some(other) => Err(ModelError::unsupported(
            config,
            "hidden_act",
            format!("\"{other}\""),
            "known: silu",
        )),
    }
}

/// A graph under construction.
struct Wiring<'a> {
    b: GraphBuilder,
    /// From a tensor's Hugging Face name to its name in the files at hand.
    rename: fn(&str) -> String,
    spec: &'a ModelSpec,
    /// The table of each rotary setting.
    tables: Vec<ValueId>,
}

impl Wiring<'_> {
    fn build(&mut self) -> Result<(), GraphError> {
        let spec = self.spec;
        let embedding = self.matrix(EMBEDDING, spec.vocab_size, spec.hidden_size)?;
        let mut x = self.b.op("embed_tokens", Op::Embed, &[embedding])?;
        self.rope_tables()?;
        for (i, layer) in spec.layers.iter().enumerate() {
            let after_attention = self.attention(i, layer, x)?;
            x = self.mlp(i, after_attention)?;
        }
        let x = self.b.op("gather_rows", Op::GatherRows, &[x])?;
        let x = self.norm("norm", FINAL_NORM, x, spec.hidden_size)?;
        let head = match spec.tied_embeddings {
            true => embedding,
            false => self.matrix(LM_HEAD, spec.vocab_size, spec.hidden_size)?,
        };
        let out = vec![spec.vocab_size];
        let logits = self.b.op("lm_head", Op::Linear { out }, &[x, head])?;
        let argmax = self.b.op("argmax", Op::ArgMax, &[logits])?;
        self.b.output("logits", logits);
        self.b.output("argmax", argmax);
        Ok(())
    }

    fn rope_tables(&mut self) -> Result<(), GraphError> {
        for (i, rope) in self.spec.ropes.iter().enumerate() {
            let inv_freq = self
                .b
                .constant(&format!("inv_freq.{i}"), rope.inv_freq.clone());
            let op = Op::RopeTable {
                attention_factor: rope.attention_factor,
            };
            self.tables
                .push(self.b.op(&format!("rope_table.{i}"), op, &[inv_freq])?);
        }
        Ok(())
    }

    fn attention(
        &mut self,
        i: usize,
        layer: &LayerSpec,
        x: ValueId,
    ) -> Result<ValueId, GraphError> {
        let spec = self.spec;
        let (heads, kv_heads, dim) = (spec.heads, spec.kv_heads, spec.head_dim);
        let node = |op: &str| format!("layers.{i}.attn.{op}");
        let tensor = |part: &str| format!("model.layers.{i}.self_attn.{part}");

        let h = self.norm(
            &format!("layers.{i}.attn_norm"),
            &format!("model.layers.{i}.input_layernorm.weight"),
            x,
            spec.hidden_size,
        )?;
        let mut project = |part: &str, heads: usize| {
            let size = (vec![heads, dim], spec.hidden_size);
            self.linear(&node(part), &tensor(part), h, size, spec.qkv_bias)
        };
        let mut q = project("q_proj", heads)?;
        let mut k = project("k_proj", kv_heads)?;
        let v = project("v_proj", kv_heads)?;
        if spec.qk_norm {
            q = self.norm(&node("q_norm"), &tensor("q_norm.weight"), q, dim)?;
            k = self.norm(&node("k_norm"), &tensor("k_norm.weight"), k, dim)?;
        }
        let rotary_dim = spec.ropes[layer.rope].rotary_dim;
        let rotate = Op::Rope(RopeSpec::half_split(rotary_dim));
        let table = self.tables[layer.rope];
        q = self.b.op(&node("q_rope"), rotate.clone(), &[q, table])?;
        k = self.b.op(&node("k_rope"), rotate, &[k, table])?;

        let cache = self
            .b
            .cache(CacheSpec::key_value(i, layer.window, kv_heads, dim));
        let cache = self
            .b
            .op(&node("kv_append"), Op::KvAppend, &[k, v, cache])?;
        let attend = Op::Attention(AttentionSpec {
            scale: (dim as f64).powf(-0.5) as f32,
            window: layer.window,
            softcap: None,
        });
        let o = self.b.op(&node("attention"), attend, &[q, cache])?;
        let size = (vec![spec.hidden_size], heads * dim);
        let o = self.linear(&node("o_proj"), &tensor("o_proj"), o, size, spec.o_bias)?;
        self.b.op(&node("add"), Op::Add, &[x, o])
    }

    fn mlp(&mut self, i: usize, x: ValueId) -> Result<ValueId, GraphError> {
        let spec = self.spec;
        let (hidden, wide) = (spec.hidden_size, spec.intermediate_size);
        let node = |op: &str| format!("layers.{i}.mlp.{op}");
        let tensor = |part: &str| format!("model.layers.{i}.mlp.{part}");

        let h = self.norm(
            &format!("layers.{i}.mlp_norm"),
            &format!("model.layers.{i}.post_attention_layernorm.weight"),
            x,
            hidden,
        )?;
        let mut project = |part: &str, x, n, k| {
            self.linear(&node(part), &tensor(part), x, (vec![n], k), spec.mlp_bias)
        };
        let gate = project("gate_proj", h, wide, hidden)?;
        let up = project("up_proj", h, wide, hidden)?;
        let op = Op::GatedMul(spec.activation);
        let h = self.b.op(&node("silu_mul"), op, &[gate, up])?;
        let size = (vec![hidden], wide);
        let down = self.linear(
            &node("down_proj"),
            &tensor("down_proj"),
            h,
            size,
            spec.mlp_bias,
        )?;
        self.b.op(&node("add"), Op::Add, &[x, down])
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
        let weight = self.vector(tensor, dim)?;
        let op = Op::RmsNorm {
            eps: self.spec.rms_norm_eps,
            weight_offset: 0.0,
        };
        self.b.op(node, op, &[x, weight])
    }

    /// `size` is (output dimensions, K).
    fn linear(
        &mut self,
        node: &str,
        tensor: &str,
        x: ValueId,
        (out, k): (Vec<usize>, usize),
        bias: bool,
    ) -> Result<ValueId, GraphError> {
        let n = out.iter().product();
        let mut inputs = vec![x, self.matrix(&format!("{tensor}.weight"), n, k)?];
        if bias {
            inputs.push(self.vector(&format!("{tensor}.bias"), n)?);
        }
        self.b.op(node, Op::Linear { out }, &inputs)
    }
}
