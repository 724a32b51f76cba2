//! The metadata.

use super::Source;
use ::models::rope::{Rope, RopeScaling};
use ::models::spec::{Attention, Ffn, Mixer, Moe};
use formats::gguf::{GgufKeys, Value};
use graph::RouteScore;

/// Keys under the name of the architecture.
struct Keys {
    all: GgufKeys,
    architecture: &'static str,
}

impl Keys {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn count(&mut self, key: &str, n: usize) {
        let name = self.name(key);
        let value = Value::U32(u32::try_from(n).expect("a small number"));
        self.all.put(&name, value);
    }

    fn number(&mut self, key: &str, x: f32) {
        let name = self.name(key);
        self.all.put(&name, Value::F32(x));
    }

    fn flags(&mut self, key: &str, flags: &[bool]) {
        let name = self.name(key);
        self.all.put_bools(&name, flags);
    }

    fn text(&mut self, key: &str, text: &str) {
        let name = self.name(key);
        self.all.put_str(&name, text);
    }
}

pub(super) fn keys(source: &Source<'_>) -> GgufKeys {
    let spec = source.spec();
    let architecture = source.architecture;
    let mut keys = Keys {
        all: GgufKeys::new(),
        architecture,
    };
    keys.all.put_str("general.architecture", architecture);
    keys.all.put_str("tokenizer.ggml.model", "no_vocab");
    keys.count("block_count", spec.layers.len());
    keys.count("context_length", spec.context_length);
    keys.count("embedding_length", spec.hidden_size);
    keys.number("attention.layer_norm_rms_epsilon", spec.rms_norm_eps);
    if let Some(rope) = spec.ropes.first() {
        put_rope(&mut keys, rope);
    }
    if let Some(sliding) = spec.ropes.get(1) {
        keys.number("rope.freq_base_swa", sliding.theta as f32);
    }
    let dense = spec.layers.iter().find_map(|l| match &l.ffn {
        Ffn::Dense(d) => Some(d.intermediate),
        Ffn::Moe(_) => None,
    });
    let moe = spec.layers.iter().find_map(|l| match &l.ffn {
        Ffn::Moe(m) => Some(m),
        Ffn::Dense(_) => None,
    });
    // Mixtral's files have the size of an expert here.
    let wide = dense.or(moe
        .filter(|_| architecture == "llama")
        .map(|m| m.intermediate));
    if let Some(wide) = wide {
        keys.count("feed_forward_length", wide);
    }
    if let Some(moe) = moe {
        put_moe(&mut keys, moe);
    }
    put_mixers(&mut keys, source);
    put_factors(&mut keys, source);
    keys.all
}

fn put_mixers(keys: &mut Keys, source: &Source<'_>) {
    let layers = &source.spec().layers;
    let attention = |mixer: &Mixer| match mixer {
        Mixer::Attention(a) => Some(a.clone()),
        _ => None,
    };
    if let Some(a) = layers.iter().find_map(|l| attention(&l.mixer)) {
        keys.count("attention.head_count", a.heads);
        keys.count("attention.key_length", a.head_dim);
        keys.count("attention.value_length", a.head_dim);
        let counts: Vec<i32> = layers
            .iter()
            .map(|l| attention(&l.mixer).map_or(0, |a| a.kv_heads as i32))
            .collect();
        match source.architecture {
            "lfm2" => {
                let name = keys.name("attention.head_count_kv");
                keys.all.put_i32s(&name, &counts);
            }
            _ => keys.count("attention.head_count_kv", a.kv_heads),
        }
        put_windows(keys, layers.iter().map(|l| l.window()).collect());
        put_rotates(keys, layers.iter().filter_map(|l| attention(&l.mixer)));
    }
    for layer in layers {
        match &layer.mixer {
            Mixer::Conv(c) => return keys.count("shortconv.l_cache", c.kernel),
            Mixer::Delta(d) => {
                keys.count("ssm.conv_kernel", d.kernel);
                keys.count("ssm.state_size", d.key_dim);
                keys.count("ssm.group_count", d.key_heads);
                keys.count("ssm.time_step_rank", d.value_heads);
                keys.count("ssm.inner_size", d.value_heads * d.value_dim);
                let recurrent = layers.iter().map(|l| matches!(l.mixer, Mixer::Delta(_)));
                let recurrent: Vec<bool> = recurrent.collect();
                return keys.flags("attention.recurrent_layers", &recurrent);
            }
            Mixer::Latent(l) => {
                keys.count("attention.head_count", l.heads);
                keys.count("attention.head_count_kv", 1);
                keys.count("attention.key_length", l.kv_rank + l.rope_dim);
                keys.count("attention.value_length", l.kv_rank);
                keys.count("attention.key_length_mla", l.nope_dim + l.rope_dim);
                keys.count("attention.value_length_mla", l.value_dim);
                keys.count("attention.kv_lora_rank", l.kv_rank);
                if let Some(rank) = l.q_rank {
                    keys.count("attention.q_lora_rank", rank);
                }
                if let RopeScaling::Yarn { factor, .. } = source.spec().ropes[l.rope].scaling {
                    let plain = ((l.nope_dim + l.rope_dim) as f64).powf(-0.5);
                    let growth = (f64::from(l.scale) / plain).sqrt();
                    let share = (growth - 1.0) / factor.ln();
                    keys.number("rope.scaling.yarn_log_multiplier", share as f32);
                }
                return;
            }
            Mixer::Attention(_) => {}
        }
    }
}

fn put_windows(keys: &mut Keys, windows: Vec<Option<usize>>) {
    let Some(window) = windows.iter().flatten().next() else {
        return;
    };
    keys.count("attention.sliding_window", *window);
    let slides: Vec<bool> = windows.iter().map(Option::is_some).collect();
    // What an absent pattern means.
    let period = match keys.architecture {
        "gemma2" | "gpt-oss" => 2,
        "gemma3" => 6,
        _ => 1,
    };
    let usual = |(i, slides): (usize, &bool)| *slides == (period == 1 || (i + 1) % period > 0);
    if !slides.iter().enumerate().all(usual) {
        keys.flags("attention.sliding_window_pattern", &slides);
    }
}

fn put_rotates(keys: &mut Keys, attentions: impl Iterator<Item = Attention>) {
    let rotates: Vec<bool> = attentions.map(|a| a.rope.is_some()).collect();
    let usual = |(i, rotates): (usize, &bool)| *rotates == ((i + 1) % 4 > 0);
    if keys.architecture == "smollm3" && !rotates.iter().enumerate().all(usual) {
        keys.flags("attention.rope_pattern", &rotates);
    }
}

fn put_factors(keys: &mut Keys, source: &Source<'_>) {
    let spec = source.spec();
    if keys.architecture == "granite" {
        keys.number("embedding_scale", spec.embedding_scale);
        keys.number("residual_scale", spec.residual_scale);
        keys.number("logit_scale", 1.0 / spec.logits_scale);
    }
    if let Some(cap) = spec.logits_softcap {
        keys.number("final_logit_softcapping", cap);
    }
    if let Some(a) = spec.attentions().next() {
        if let Some(cap) = a.softcap {
            keys.number("attn_logit_softcapping", cap);
        }
        if a.scale != (a.head_dim as f64).powf(-0.5) as f32 {
            keys.number("attention.scale", a.scale);
        }
    }
}

fn put_moe(keys: &mut Keys, m: &Moe) {
    keys.count("expert_count", m.experts);
    keys.count("expert_used_count", m.top_k);
    if keys.architecture != "llama" {
        keys.count("expert_feed_forward_length", m.intermediate);
    }
    if let Some(shared) = &m.shared {
        match keys.architecture {
            "deepseek2" => keys.count("expert_shared_count", shared.intermediate / m.intermediate),
            _ => keys.count("expert_shared_feed_forward_length", shared.intermediate),
        }
    }
    if keys.architecture == "deepseek2" {
        keys.count(
            "expert_gating_func",
            if m.score == RouteScore::Sigmoid { 2 } else { 1 },
        );
        keys.number("expert_weights_scale", m.scale);
        if m.normalise {
            let name = keys.name("expert_weights_norm");
            keys.all.put(&name, Value::Bool(true));
        }
    }
    if let Some(groups) = m.groups {
        keys.count("expert_group_count", groups.count);
        keys.count("expert_group_used_count", groups.keep);
    }
}

fn put_rope(keys: &mut Keys, rope: &Rope) {
    keys.count("rope.dimension_count", rope.rotary_dim);
    keys.number("rope.freq_base", rope.theta as f32);
    match rope.scaling {
        RopeScaling::Linear { factor } => {
            keys.text("rope.scaling.type", "linear");
            keys.number("rope.scaling.factor", factor as f32);
        }
        RopeScaling::LongRope {
            original_context,
            attention_factor,
        } => {
            keys.count("rope.scaling.original_context_length", original_context);
            keys.number("rope.scaling.attn_factor", attention_factor as f32);
        }
        RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            original_context,
            attention_factor,
            ..
        } => {
            keys.text("rope.scaling.type", "yarn");
            keys.number("rope.scaling.factor", factor as f32);
            keys.count("rope.scaling.original_context_length", original_context);
            keys.number("rope.scaling.yarn_beta_fast", beta_fast as f32);
            keys.number("rope.scaling.yarn_beta_slow", beta_slow as f32);
            let usual = match keys.architecture {
                "deepseek2" => 1.0,
                _ => 0.1 * factor.ln() + 1.0,
            };
            if (attention_factor - usual).abs() > 1e-9 {
                keys.number("rope.scaling.yarn_attn_factor", attention_factor as f32);
            }
        }
        _ => {}
    }
}
