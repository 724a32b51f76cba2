//! The tensors of a layer.

use super::{Source, Tensor};
use ::models::spec::{Attention, DeltaNet, Dense, Ffn, Latent, Mixer, Moe};

pub(super) fn tensors(source: &Source<'_>, number: usize) -> Vec<Tensor> {
    let layer = Layer { source, number };
    let spec = &source.spec().layers[number];
    let mut all = layer.norms();
    all.extend(match &spec.mixer {
        Mixer::Attention(a) => layer.attention(a),
        Mixer::Latent(l) => layer.latent(l),
        Mixer::Delta(d) => layer.delta_net(d),
        Mixer::Conv(c) => {
            let hidden = source.spec().hidden_size;
            let kernel = c.kernel;
            let mut all = layer.shared(&[
                (
                    &["conv.in_proj.b", "conv.in_proj.c", "conv.in_proj.x"],
                    "shortconv.in_proj",
                ),
                (&["conv.out_proj"], "shortconv.out_proj"),
            ]);
            let taps = layer.get("conv.conv.taps.weight").shaped(&[hidden, kernel]);
            all.push(layer.named(taps, "shortconv.conv.weight"));
            all.extend(layer.maybe("conv.conv.bias", "shortconv.conv.bias"));
            all
        }
    });
    all.extend(match &spec.ffn {
        Ffn::Dense(d) => layer.dense(d),
        Ffn::Moe(m) => layer.moe(m),
    });
    all
}

struct Layer<'a> {
    source: &'a Source<'a>,
    number: usize,
}

impl Layer<'_> {
    fn path(&self, part: &str) -> String {
        format!("model.layers.{}.{part}", self.number)
    }

    fn get(&self, part: &str) -> Tensor {
        self.source.get(&self.path(part))
    }

    fn named(&self, tensor: Tensor, name: &str) -> Tensor {
        tensor.named(format!("blk.{}.{name}", self.number))
    }

    /// A tensor that not every model has.
    fn maybe(&self, part: &str, name: &str) -> Option<Tensor> {
        let found = self.source.find(&self.path(part))?;
        Some(self.named(found, name))
    }

    /// Projections, several of which may be one in the file, with the biases that there are.
    fn shared(&self, projections: &[(&[&str], &str)]) -> Vec<Tensor> {
        let mut all = Vec::new();
        for (parts, name) in projections {
            for kind in [".weight", ".bias"] {
                let found: Option<Vec<Tensor>> = parts
                    .iter()
                    .map(|p| self.source.find(&self.path(&format!("{p}{kind}"))))
                    .collect();
                match found.as_deref() {
                    Some([one]) => all.push(self.named(one.clone(), &format!("{name}{kind}"))),
                    Some(several) => {
                        all.push(self.named(Tensor::joined(several), &format!("{name}{kind}")));
                    }
                    None => {}
                }
            }
        }
        all
    }

    fn norms(&self) -> Vec<Tensor> {
        let norms = self.source.spec().norms;
        let second = match self.source.architecture {
            "gpt-oss" | "qwen35" | "qwen35moe" | "qwen3next" => "post_attention_norm",
            _ => "ffn_norm",
        };
        let names = [
            (norms.before_mixer, "attn_norm"),
            (norms.after_mixer, "post_attention_norm"),
            (norms.before_ffn, second),
            (norms.after_ffn, "post_ffw_norm"),
        ];
        let norm = |(from, to): (Option<&'static str>, &str)| {
            let weight = self.source.norm(&self.path(&format!("{}.weight", from?)));
            Some(self.named(weight, &format!("{to}.weight")))
        };
        names.into_iter().filter_map(norm).collect()
    }

    fn attention(&self, a: &Attention) -> Vec<Tensor> {
        let mut all = self.shared(&[
            (&["self_attn.v_proj"], "attn_v"),
            (&["self_attn.o_proj"], "attn_output"),
        ]);
        let paired = ["llama", "granite", "smollm3"].contains(&self.source.architecture);
        for kind in [".weight", ".bias"] {
            let find = |part: &str| {
                self.source
                    .find(&self.path(&format!("self_attn.{part}{kind}")))
            };
            let q = match find("q_proj.query").zip(find("q_proj.gate")) {
                Some((query, gate)) => Some(Tensor::by_turns(&[
                    (&query, a.head_dim),
                    (&gate, a.head_dim),
                ])),
                None => find("q_proj"),
            };
            for (found, name) in [(q, "attn_q"), (find("k_proj"), "attn_k")] {
                let Some(found) = found else { continue };
                let tensor = match paired {
                    true => found.paired(a.head_dim),
                    false => found,
                };
                all.push(self.named(tensor, &format!("{name}{kind}")));
            }
        }
        if self.source.architecture == "phi3" {
            let find = |name: &str| {
                let name = format!("blk.{}.{name}.weight", self.number);
                all.iter()
                    .find(|t| t.name == name)
                    .expect("made before")
                    .clone()
            };
            let fused = Tensor::joined(&[find("attn_q"), find("attn_k"), find("attn_v")]);
            all.retain(|t| t.name.contains("output"));
            all.push(self.named(fused, "attn_qkv.weight"));
        }
        for (part, name) in [("q_norm", "attn_q_norm"), ("k_norm", "attn_k_norm")] {
            let path = self.path(&format!("self_attn.{part}.weight"));
            if self.source.find(&path).is_some() {
                all.push(self.named(self.source.norm(&path), &format!("{name}.weight")));
            }
        }
        all.extend(self.maybe("self_attn.sinks", "attn_sinks.weight"));
        all
    }

    fn latent(&self, l: &Latent) -> Vec<Tensor> {
        let mut all = self.shared(&[
            (&["self_attn.q_a_proj"], "attn_q_a"),
            (&["self_attn.q_a_layernorm"], "attn_q_a_norm"),
            (&["self_attn.kv_a_layernorm"], "attn_kv_a_norm"),
            (&["self_attn.o_proj"], "attn_output"),
        ]);
        // The file's rotation pairs neighbours, whatever the folder's does.
        let interleaved = self.source.spec().ropes[l.rope].interleaved;
        let rotating = |t: Tensor| match interleaved {
            true => t,
            false => t.paired(l.rope_dim),
        };
        let (from, name) = match l.q_rank {
            Some(_) => ("q_b_proj", "attn_q_b"),
            None => ("q_proj", "attn_q"),
        };
        let get = |part: &str| self.get(&format!("self_attn.{part}.weight"));
        let (nope, rope) = (get(&format!("{from}.nope")), get(&format!("{from}.rope")));
        let q = Tensor::by_turns(&[(&nope, l.nope_dim), (&rotating(rope), l.rope_dim)]);
        all.push(self.named(q, &format!("{name}.weight")));
        let down = [
            get("kv_a_proj_with_mqa.latent"),
            rotating(get("kv_a_proj_with_mqa.rope")),
        ];
        all.push(self.named(Tensor::joined(&down), "attn_kv_a_mqa.weight"));
        let key = get("kv_b_proj.key").shaped(&[l.heads, l.kv_rank, l.nope_dim]);
        all.push(self.named(key, "attn_k_b.weight"));
        let value = get("kv_b_proj.value").shaped(&[l.heads, l.value_dim, l.kv_rank]);
        all.push(self.named(value, "attn_v_b.weight"));
        all
    }

    fn delta_net(&self, d: &DeltaNet) -> Vec<Tensor> {
        let tiles = self.source.architecture != "qwen3next";
        let get = |part: &str| self.get(&format!("linear_attn.{part}"));
        let each = d.value_heads / d.key_heads;
        // Value heads by key head, or those of all key heads by turns.
        let order = |dim: usize| -> Vec<usize> {
            let head = move |h: usize| match tiles {
                true => h % d.key_heads * each + h / d.key_heads,
                false => h,
            };
            let rows = move |h| (0..dim).map(move |i| head(h) * dim + i);
            (0..d.value_heads).flat_map(rows).collect()
        };
        let heads = |t: Tensor| t.reordered(order(1));
        let values = |t: Tensor| t.reordered(order(d.value_dim));
        let qkv = Tensor::joined(&[
            get("in_proj.q.weight"),
            get("in_proj.k.weight"),
            values(get("in_proj.v.weight")),
        ]);
        let taps = |name: &str| {
            let taps = get(&format!("conv1d.{name}.weight"));
            let channels = taps.values.len() / d.kernel;
            taps.shaped(&[channels, d.kernel])
        };
        let taps = Tensor::joined(&[taps("q"), taps("k"), values(taps("v"))]);
        let mut decay = heads(get("A_log"));
        decay.values.iter_mut().for_each(|a| *a = -a.exp());
        let out = get("out_proj.weight").with_columns(&order(d.value_dim));
        let mut all = vec![
            self.named(qkv, "attn_qkv.weight"),
            self.named(values(get("in_proj.z.weight")), "attn_gate.weight"),
            self.named(taps, "ssm_conv1d.weight"),
            self.named(decay, "ssm_a"),
            self.named(heads(get("dt_bias")), "ssm_dt.bias"),
            self.named(get("norm.weight"), "ssm_norm.weight"),
            self.named(out, "ssm_out.weight"),
        ];
        let (b, a) = (get("in_proj.b.weight"), get("in_proj.a.weight"));
        match tiles {
            true => {
                all.push(self.named(heads(b), "ssm_beta.weight"));
                all.push(self.named(heads(a), "ssm_alpha.weight"));
            }
            false => {
                let both = Tensor::by_turns(&[(&b, each), (&a, each)]);
                all.push(self.named(both, "ssm_ba.weight"));
            }
        }
        all
    }

    fn dense(&self, _: &Dense) -> Vec<Tensor> {
        match self.source.architecture {
            "phi3" | "glm4" => self.shared(&[
                (&["mlp.gate_proj", "mlp.up_proj"], "ffn_up"),
                (&["mlp.down_proj"], "ffn_down"),
            ]),
            _ => self.shared(&[
                (&["mlp.gate_proj"], "ffn_gate"),
                (&["mlp.up_proj"], "ffn_up"),
                (&["mlp.down_proj"], "ffn_down"),
            ]),
        }
    }

    fn moe(&self, m: &Moe) -> Vec<Tensor> {
        let mut all = self.shared(&[
            (&["mlp.gate"], "ffn_gate_inp"),
            (&["mlp.shared_expert.gate_proj"], "ffn_gate_shexp"),
            (&["mlp.shared_expert.up_proj"], "ffn_up_shexp"),
            (&["mlp.shared_expert.down_proj"], "ffn_down_shexp"),
            (&["mlp.shared_expert_gate"], "ffn_gate_inp_shexp"),
        ]);
        all.extend(self.maybe("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"));
        for (part, name) in [
            ("gate_proj", "ffn_gate_exps"),
            ("up_proj", "ffn_up_exps"),
            ("down_proj", "ffn_down_exps"),
        ] {
            let weight = self.get(&format!("mlp.experts.{part}.weight"));
            let shape = [m.experts, weight.rows() / m.experts, weight.width()];
            let name = |kind| format!("{name}.{kind}");
            all.push(self.named(weight.shaped(&shape), &name("weight")));
            if let Some(bias) = self.maybe(&format!("mlp.experts.{part}.bias"), &name("bias")) {
                all.push(bias.shaped(&shape[..2]));
            }
        }
        all
    }
}
