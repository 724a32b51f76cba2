//! One specification of a decoder, with every knob that the families have.

use graph::{Activation, Graph, GraphBuilder, GraphError, RouteGroups, RouteScore};

use crate::paro::Paro;
use crate::rope::Rope;
use crate::wiring::Wiring;

/// Most attention heads that a model may have.
pub const MAX_HEADS: usize = 1 << 16;
/// Largest size of one attention head.
pub const MAX_HEAD_DIM: usize = 1 << 13;
/// Most experts that a layer may have.
pub const MAX_EXPERTS: usize = 1 << 12;
/// Most taps of a convolution, as the graph allows.
pub const MAX_KERNEL: usize = 64;
/// Most parameters that a model may have: ten times the largest ones published.
pub const MAX_PARAMETERS: u64 = 1 << 44;

/// A decoder-only model: embedding, layers of a mixer and a feed-forward part, norm, output head.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    pub vocab_size: usize,
    pub hidden_size: usize,
    /// Positions that the model was made for (`max_position_embeddings`).
    pub context_length: usize,
    pub rms_norm_eps: f32,
    /// Added to the weight of every norm over hidden states, queries or keys: 1 where a file keeps
    /// them around 0.
    pub norm_offset: f32,
    /// Of the gated feed-forward parts.
    pub activation: Activation,
    /// The output head is the embedding matrix.
    pub tied_embeddings: bool,
    /// Multiplies embeddings.
    pub embedding_scale: f32,
    /// Multiplies what each part of a layer adds to the hidden states.
    pub residual_scale: f32,
    /// Multiplies logits.
    pub logits_scale: f32,
    /// Logits x become cap·tanh(x/cap).
    pub logits_softcap: Option<f32>,
    pub norms: Norms,
    /// Distinct rotary settings; each becomes one table, shared by the layers that name it.
    pub ropes: Vec<Rope>,
    pub layers: Vec<LayerSpec>,
    /// Where projections are kept in four bits behind rotations.
    pub paro: Option<Paro>,
}

/// Which norms a layer has, by the names of their weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Norms {
    pub before_mixer: Option<&'static str>,
    pub after_mixer: Option<&'static str>,
    pub before_ffn: Option<&'static str>,
    pub after_ffn: Option<&'static str>,
}

impl Norms {
    /// Before each part.
    pub const PRE: Norms = Norms {
        before_mixer: Some("input_layernorm"),
        after_mixer: None,
        before_ffn: Some("post_attention_layernorm"),
        after_ffn: None,
    };
    /// After each part.
    pub const POST: Norms = Norms {
        before_mixer: None,
        after_mixer: Some("post_attention_layernorm"),
        before_ffn: None,
        after_ffn: Some("post_feedforward_layernorm"),
    };
    /// Before and after each part.
    pub const SANDWICH: Norms = Norms {
        before_mixer: Some("input_layernorm"),
        after_mixer: Some("post_attention_layernorm"),
        before_ffn: Some("pre_feedforward_layernorm"),
        after_ffn: Some("post_feedforward_layernorm"),
    };

    fn count(&self) -> usize {
        let all = [
            self.before_mixer,
            self.after_mixer,
            self.before_ffn,
            self.after_ffn,
        ];
        all.iter().flatten().count()
    }
}

/// One layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    pub mixer: Mixer,
    pub ffn: Ffn,
}

impl LayerSpec {
    /// How far back its attention sees; `None` where it sees everything or does not attend.
    pub fn window(&self) -> Option<usize> {
        match &self.mixer {
            Mixer::Attention(a) => a.window,
            _ => None,
        }
    }
}

/// What moves information between positions.
#[derive(Clone, Debug, PartialEq)]
pub enum Mixer {
    Attention(Attention),
    Latent(Latent),
    Delta(DeltaNet),
    Conv(ShortConv),
}

/// Norms on queries and keys, before the rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    None,
    /// Over each head.
    Head,
    /// Over all heads together.
    Whole,
}

/// Grouped-query attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of one head; even. `heads · head_dim` need not be `hidden_size`.
    pub head_dim: usize,
    /// Multiplies q·k.
    pub scale: f32,
    /// Position p sees positions in (p − window, p]; `None` sees all of [0, p].
    pub window: Option<usize>,
    /// Scores x become cap·tanh(x/cap).
    pub softcap: Option<f32>,
    /// Index into [`ModelSpec::ropes`]; `None` rotates nothing.
    pub rope: Option<usize>,
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub qk_norm: QkNorm,
    /// Each head has one more score, whose value is zero.
    pub sinks: bool,
    /// σ of a projection of its own multiplies what attention yields.
    pub output_gate: bool,
}

/// Multi-head latent attention, computed on the latent vectors themselves (absorbed).
#[derive(Clone, Debug, PartialEq)]
pub struct Latent {
    pub heads: usize,
    /// Queries pass through so few dimensions, with a norm.
    pub q_rank: Option<usize>,
    /// Elements of the latent vector that stands for all keys and values of a position.
    pub kv_rank: usize,
    /// Elements of a head's query that do not rotate.
    pub nope_dim: usize,
    /// Elements that do; even. All heads share the key's.
    pub rope_dim: usize,
    pub value_dim: usize,
    pub scale: f32,
    /// Index into [`ModelSpec::ropes`].
    pub rope: usize,
    /// Biases of the projections down to the latent vectors and of the output.
    pub bias: bool,
    /// Of the norms on latent vectors.
    pub norm_eps: f32,
}

/// A gated delta net: short convolutions on q, k and v, then the gated delta rule.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaNet {
    pub key_heads: usize,
    /// A multiple of `key_heads`.
    pub value_heads: usize,
    pub key_dim: usize,
    pub value_dim: usize,
    /// Taps of the convolutions.
    pub kernel: usize,
    /// See [`graph::DeltaSpec`].
    pub log_decay: bool,
    /// See [`graph::DeltaSpec`].
    pub tiled: bool,
}

impl DeltaNet {
    /// Elements of all keys, and of all queries.
    pub fn key_width(&self) -> usize {
        self.key_heads * self.key_dim
    }

    /// Elements of all values.
    pub fn value_width(&self) -> usize {
        self.value_heads * self.value_dim
    }
}

/// A gated short convolution (LFM2) over all of the hidden state.
#[derive(Clone, Debug, PartialEq)]
pub struct ShortConv {
    pub kernel: usize,
    /// Biases of both projections and of the convolution.
    pub bias: bool,
}

/// What works on each position alone.
#[derive(Clone, Debug, PartialEq)]
pub enum Ffn {
    Dense(Dense),
    Moe(Moe),
}

/// A gated MLP.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    pub intermediate: usize,
    /// Biases of gate, up and down.
    pub bias: bool,
}

/// A mixture of gated MLPs.
#[derive(Clone, Debug, PartialEq)]
pub struct Moe {
    pub experts: usize,
    pub top_k: usize,
    /// Of each expert.
    pub intermediate: usize,
    pub activation: Activation,
    pub score: RouteScore,
    /// Divides the weights of the chosen by their sum.
    pub normalise: bool,
    /// Multiplies the weights.
    pub scale: f32,
    pub groups: Option<RouteGroups>,
    /// A bias that takes part in choosing experts only.
    pub selection_bias: bool,
    pub router_bias: bool,
    pub expert_bias: bool,
    pub shared: Option<Shared>,
}

/// An expert that every position passes through.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    pub intermediate: usize,
    /// σ of a projection to one number multiplies what it yields.
    pub gate: bool,
}

impl ModelSpec {
    /// Stored weights, each counted once.
    pub fn parameters(&self) -> u128 {
        let hidden = size(self.hidden_size);
        let norms = size(self.norms.count()) * hidden;
        let layers = self.layers.iter();
        let layers = layers.map(|l| l.mixer.parameters(hidden) + l.ffn.parameters(hidden) + norms);
        let embeddings = size(self.vocab_size) * hidden * if self.tied_embeddings { 1 } else { 2 };
        embeddings + hidden + layers.sum::<u128>()
    }

    /// The attention layers.
    pub fn attentions(&self) -> impl Iterator<Item = &Attention> {
        self.layers.iter().filter_map(|l| match &l.mixer {
            Mixer::Attention(a) => Some(a),
            _ => None,
        })
    }

    /// Changes the attention layers, given their numbers.
    pub(crate) fn each_attention(&mut self, mut change: impl FnMut(usize, &mut Attention)) {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            if let Mixer::Attention(a) = &mut layer.mixer {
                change(i, a);
            }
        }
    }

    /// Gives each layer its window, in order.
    pub(crate) fn set_windows(&mut self, windows: &[Option<usize>]) {
        self.each_attention(|i, a| a.window = windows.get(i).copied().flatten());
    }

    /// Wires the forward pass. Outputs: `logits [L, vocab]`, `argmax [L]`,
    /// `top_k [L, 64, 2]`, the largest logits for sampling, and `exp_sum [L, 64, 2]`, what
    /// probabilities are shares of.
    ///
    /// `context` is the longest sequence that will be run: rotary settings of two forms depend on
    /// it.
    ///
    /// Errors: sizes that do not fit each other.
    pub fn graph(&self, name: &str, context: usize) -> Result<Graph, GraphError> {
        self.graph_named(name, context, |tensor| tensor.to_string())
    }

    /// [`graph`](Self::graph) with the weights called as `rename` calls them, given the names that
    /// they have in a Hugging Face folder.
    pub(crate) fn graph_named(
        &self,
        name: &str,
        context: usize,
        rename: fn(&str) -> String,
    ) -> Result<Graph, GraphError> {
        let wiring = Wiring::new(GraphBuilder::new(name), rename, self, context);
        wiring.build()
    }
}

fn size(n: usize) -> u128 {
    n as u128
}

fn when(on: bool, n: u128) -> u128 {
    if on { n } else { 0 }
}

impl Mixer {
    fn parameters(&self, hidden: u128) -> u128 {
        match self {
            Mixer::Attention(a) => a.parameters(hidden),
            Mixer::Latent(l) => l.parameters(hidden),
            Mixer::Delta(d) => d.parameters(hidden),
            Mixer::Conv(c) => {
                let bias = when(c.bias, 5 * hidden);
                hidden * (4 * hidden + size(c.kernel)) + bias
            }
        }
    }
}

impl Attention {
    fn parameters(&self, hidden: u128) -> u128 {
        let q = size(self.heads) * size(self.head_dim);
        let kv = size(self.kv_heads) * size(self.head_dim);
        let projected = q + 2 * kv + when(self.output_gate, q);
        let norms = match self.qk_norm {
            QkNorm::None => 0,
            QkNorm::Head => 2 * size(self.head_dim),
            QkNorm::Whole => q + kv,
        };
        hidden * (projected + q)
            + when(self.qkv_bias, projected)
            + when(self.o_bias, hidden)
            + when(self.sinks, size(self.heads))
            + norms
    }
}

impl Latent {
    fn parameters(&self, hidden: u128) -> u128 {
        let (heads, kv_rank) = (size(self.heads), size(self.kv_rank));
        let q = heads * (size(self.nope_dim) + size(self.rope_dim));
        let q = match self.q_rank.map(size) {
            Some(rank) => rank * (hidden + 1 + q) + when(self.bias, rank),
            None => hidden * q,
        };
        let down = kv_rank + size(self.rope_dim);
        let kv = hidden * down + when(self.bias, down) + kv_rank;
        let up = kv_rank * heads * (size(self.nope_dim) + size(self.value_dim));
        let o = heads * size(self.value_dim) * hidden + when(self.bias, hidden);
        q + kv + up + o
    }
}

impl DeltaNet {
    fn parameters(&self, hidden: u128) -> u128 {
        let heads = size(self.value_heads);
        let keys = size(self.key_heads) * size(self.key_dim);
        let values = heads * size(self.value_dim);
        let mixed = 2 * keys + values;
        hidden * (mixed + 2 * values + 2 * heads)
            + mixed * size(self.kernel)
            + 2 * heads
            + size(self.value_dim)
    }
}

impl Ffn {
    fn parameters(&self, hidden: u128) -> u128 {
        match self {
            Ffn::Dense(d) => {
                let wide = size(d.intermediate);
                3 * hidden * wide + when(d.bias, 2 * wide + hidden)
            }
            Ffn::Moe(m) => {
                let (experts, wide) = (size(m.experts), size(m.intermediate));
                let each = 3 * hidden * wide + when(m.expert_bias, 2 * wide + hidden);
                let shared = m.shared.as_ref().map_or(0, |s| {
                    3 * hidden * size(s.intermediate) + when(s.gate, hidden)
                });
                experts * (hidden + each)
                    + when(m.router_bias, experts)
                    + when(m.selection_bias, experts)
                    + shared
            }
        }
    }
}
