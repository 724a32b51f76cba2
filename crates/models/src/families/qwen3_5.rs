//! Qwen3.5, dense and with experts: Qwen3-Next with other defaults and projections that are not
//! fused. Positions of images and videos have three parts; those of text are equal, so that the
//! sections of the rotation do not matter.

use formats::ConfigView;

use super::qwen3_moe::{EXPERTS, Sizes};
use super::qwen3_next::{self, read_dense, read_gguf, read_hybrid, read_shared_moe};
use crate::error::{ModelError, Result};
use crate::family::{Family, TextOf};
use crate::gguf::GgufArchitecture;
use crate::guard::{self, Feature, Off};
use crate::read::{Defaults, KvHeads};
use crate::spec::{Ffn, ModelSpec};

inventory::submit! {
    Family::new("qwen3_5_text", &["Qwen3_5ForCausalLM"], read, file!())
}

inventory::submit! {
    Family {
        text: Some(TextOf {
            model_type: "qwen3_5_text",
            ..TEXT
        }),
        ..Family::new("qwen3_5", &["Qwen3_5ForConditionalGeneration"], read, file!())
    }
}

inventory::submit! {
    Family {
        computes: EXPERTS,
        ..Family::new("qwen3_5_moe_text", &["Qwen3_5MoeForCausalLM"], read_moe, file!())
    }
}

inventory::submit! {
    Family {
        computes: EXPERTS,
        text: Some(TextOf {
            model_type: "qwen3_5_moe_text",
            ..TEXT
        }),
        ..Family::new(
            "qwen3_5_moe",
            &["Qwen3_5MoeForConditionalGeneration"],
            read_moe,
            file!(),
        )
    }
}

// Sections of the rotation do not matter to text.
inventory::submit! {
    GgufArchitecture {
        computes: &["rope.dimension_sections", "nextn_predict_layers"],
        ..GgufArchitecture::new("qwen35", |file| read_gguf(file, true, false), file!())
    }
}

inventory::submit! {
    GgufArchitecture {
        computes: &["expert_count", "rope.dimension_sections", "nextn_predict_layers"],
        ..GgufArchitecture::new("qwen35moe", |file| read_gguf(file, true, true), file!())
    }
}

const TEXT: TextOf = TextOf {
    field: "text_config",
    model_type: "",
    tied_embeddings: false,
    left_out: "images and videos",
};

/// The router of this family always normalises, whatever the field says elsewhere.
const NORMALISED: &[Feature] = &[(
    "norm_topk_prob",
    &[Off::True],
    "this family divides the weights of the chosen experts by their sum",
)];

fn read(config: &ConfigView<'_>) -> Result<ModelSpec> {
    let defaults = Defaults {
        kv_heads: KvHeads::Count(4),
        ..qwen3_next::DEFAULTS
    };
    read_hybrid(config, &defaults, read_dense(config, true)?)
}

fn read_moe(config: &ConfigView<'_>) -> Result<ModelSpec> {
    guard::refuse(config, NORMALISED)?;
    let mut spec = read_hybrid(config, &qwen3_next::DEFAULTS, read_dense(config, false)?)?;
    let sizes = Sizes {
        experts: 256,
        top_k: 8,
        intermediate: 512,
    };
    let Some(moe) = read_shared_moe(config, &spec, &sizes, true)? else {
        return Err(ModelError::unsupported(
            config,
            "num_experts",
            "0",
            "every layer of this family has experts",
        ));
    };
    for layer in &mut spec.layers {
        layer.ffn = Ffn::Moe(moe.clone());
    }
    Ok(spec)
}
