//! Gemma 3: Gemma 2 with a norm on each head of q and k in place of the soft caps, one full layer
//! in six, and a rotary setting of their own for the layers that slide.

use formats::ConfigView;
use formats::config::MAX_LAYERS;

use super::gemma2::{self, softcap};
use crate::error::Result;
use crate::family::{Family, TextOf};
use crate::gguf::{GgufArchitecture, GgufFile};
use crate::read::{Defaults, size_or};
use crate::rope::{LayerRope, Rope};
use crate::spec::{ModelSpec, QkNorm};
use crate::windows;

inventory::submit! {
    Family {
        computes: COMPUTES,
        ..Family::new("gemma3_text", &["Gemma3ForCausalLM"], read, file!())
    }
}

inventory::submit! {
    Family {
        computes: COMPUTES,
        text: Some(TextOf {
            field: "text_config",
            model_type: "gemma3_text",
            tied_embeddings: true,
            left_out: "images",
        }),
        ..Family::new("gemma3", &["Gemma3ForConditionalGeneration"], read, file!())
    }
}

inventory::submit! {
    GgufArchitecture {
        computes: &["final_logit_softcapping", "attention.scale", "rope.freq_base_swa"],
        ..GgufArchitecture::new("gemma3", read_gguf, file!())
    }
}

fn read_gguf(file: &GgufFile<'_>) -> Result<ModelSpec> {
    let mut spec = gemma2::read_gguf_base(file, LARGEST_LAYERS)?;
    spec.set_windows(&file.windows(None, 6)?);
    let dim = spec.attentions().next().map_or(0, |a| a.head_dim);
    spec.ropes.push(file.sliding_rope(dim)?);
    set_layer_ropes(&mut spec);
    Ok(spec)
}

/// Layers of the model whose attention scale is that of hidden_size / heads.
const LARGEST_LAYERS: usize = 62;

const COMPUTES: &[&str] = &["final_logit_softcapping"];

const DEFAULTS: Defaults = Defaults {
    // The text part of a configuration of several modalities leaves even these out.
    vocab_size: Some(262_208),
    heads: Some(8),
    context_length: 131_072,
    rope: None,
    ..gemma2::DEFAULTS
};

const FULL: LayerRope = LayerRope {
    field: "full_attention",
    nested: "rope_parameters.full_attention",
    theta_field: "rope_theta",
    theta: 1e6,
    scaled: true,
};

const SLIDING: LayerRope = LayerRope {
    field: "sliding_attention",
    nested: "rope_parameters.sliding_attention",
    theta_field: "rope_local_base_freq",
    theta: 1e4,
    scaled: false,
};

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    let mut spec = gemma2::read_base(config, &DEFAULTS)?;
    let pattern = size_or(config, "sliding_window_pattern", 1, MAX_LAYERS, 6)?;
    let slides = |i: usize| !(i + 1).is_multiple_of(pattern);
    let window = windows::sliding_window(config)?;
    spec.set_windows(&windows::alternating(
        config,
        spec.layers.len(),
        window,
        slides,
    )?);
    let dim = spec.attentions().next().map_or(0, |a| a.head_dim);
    for kind in [FULL, SLIDING] {
        let rope = Rope::read_of_layers(config, kind, dim, spec.context_length)?;
        spec.ropes.push(rope);
    }
    set_layer_ropes(&mut spec);
    spec.logits_softcap = softcap(config, "final_logit_softcapping", None)?;
    Ok(spec)
}

/// The first setting for full layers, the second for those that slide. A model of few layers may
/// have but one kind of them, and a table that nobody reads is none.
fn set_layer_ropes(spec: &mut ModelSpec) {
    spec.each_attention(|_, a| {
        a.rope = Some(usize::from(a.window.is_some()));
        a.qk_norm = QkNorm::Head;
    });
    for rope in (0..spec.ropes.len()).rev() {
        if spec.attentions().any(|a| a.rope == Some(rope)) {
            continue;
        }
        spec.ropes.remove(rope);
        spec.each_attention(|_, a| a.rope = a.rope.map(|r| r - usize::from(r > rope)));
    }
}
