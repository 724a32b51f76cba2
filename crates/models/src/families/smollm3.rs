//! SmolLM3: Llama in which every fourth layer rotates nothing, and may slide.

use formats::ConfigView;
use formats::config::MAX_LAYERS;

use crate::error::{ModelError, Result};
use crate::family::Family;
use crate::gguf::{GgufArchitecture, GgufFile};
use crate::read::{Defaults, KvHeads, size_or};
use crate::rope::RopeDefaults;
use crate::spec::ModelSpec;
use crate::{guard, windows};

inventory::submit! {
    Family {
        // How the published model was trained is written in its configuration; nothing is sliced.
        computes: &["no_rope_layers", "no_rope_layer_interval", "pretraining_tp"],
        ..Family::new("smollm3", &["SmolLM3ForCausalLM"], read, file!())
    }
}

inventory::submit! {
    GgufArchitecture {
        qk_interleaved: true,
        computes: &["attention.rope_pattern"],
        ..GgufArchitecture::new("smollm3", read_gguf, file!())
    }
}

/// Which layers rotate, few files say: it is all but every fourth.
fn read_gguf(file: &GgufFile<'_>) -> Result<ModelSpec> {
    let mut spec = file.decoder()?;
    let pattern = file.flags("attention.rope_pattern")?;
    let rotates = |i: usize| match &pattern {
        Some(flags) => flags[i],
        None => !(i + 1).is_multiple_of(4),
    };
    spec.each_attention(|i, a| a.rope = a.rope.filter(|_| rotates(i)));
    if spec.attentions().all(|a| a.rope.is_none()) {
        spec.ropes.clear();
    }
    Ok(spec)
}

const DEFAULTS: Defaults = Defaults {
    kv_heads: KvHeads::Count(4),
    context_length: 32_768,
    tied_embeddings: true,
    rope: Some(RopeDefaults {
        theta: 2e6,
        ..RopeDefaults::WHOLE
    }),
    ..Defaults::LLAMA
};

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    guard::refuse(config, guard::NO_QK_NORM)?;
    let mut spec = ModelSpec::read(config, &DEFAULTS)?;
    spec.set_attention_bias(config, false, true)?;
    spec.set_mlp_bias(config)?;
    let layers = spec.layers.len();
    let rotates = read_rotates(config, layers)?;
    spec.each_attention(|i, a| a.rope = a.rope.filter(|_| rotates[i]));
    let window = match config.opt_bool("use_sliding_window")? {
        Some(true) => config.opt_usize("sliding_window")?,
        _ => None,
    };
    let slides = |i: usize| window.is_some() && !rotates[i];
    spec.set_windows(&windows::alternating(config, layers, window, slides)?);
    if spec.attentions().all(|a| a.rope.is_none()) {
        spec.ropes.clear();
    }
    Ok(spec)
}

/// Per layer, whether it rotates: `no_rope_layers` says 1 where it does.
fn read_rotates(config: &ConfigView<'_>, layers: usize) -> Result<Vec<bool>> {
    const FIELD: &str = "no_rope_layers";
    let interval = size_or(config, "no_rope_layer_interval", 1, MAX_LAYERS, 4)?;
    match config.opt_usizes_in(FIELD, 0..=1)? {
        None => Ok((1..=layers).map(|i| !i.is_multiple_of(interval)).collect()),
        Some(flags) if flags.len() == layers => Ok(flags.iter().map(|f| *f == 1).collect()),
        Some(flags) => Err(ModelError::inconsistent(
            config.file(),
            format!(
                "`{FIELD}` has {} entries for {layers} layers (`num_hidden_layers`); wanted one each",
                flags.len()
            ),
        )),
    }
}
