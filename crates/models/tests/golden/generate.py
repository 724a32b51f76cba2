"""Writes reference.json and published.json: what transformers makes of configurations, for
tests/reference.rs.

    python generate.py        (transformers 5.17.0, torch 2.11.0)

Each configuration is written as a config.json, read back with AutoConfig and instantiated, so that
spellings, defaults and precedence are transformers' own. Recorded: the shape of every tensor that
it writes to a file, the window and the scale of each layer that attends, the rotary frequencies and
their attention factors.
"""

import json
import pathlib
import tempfile

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gemma3": "Gemma3ForConditionalGeneration",
    "phi3": "Phi3ForCausalLM",
    "qwen3_next": "Qwen3NextForCausalLM",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM",
    "qwen3_5_moe": "Qwen3_5MoeForConditionalGeneration",
    "mixtral": "MixtralForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "granite": "GraniteForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "lfm2": "Lfm2ForCausalLM",
}
# Families whose own special tokens lie outside a vocabulary of 40.
NO_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ABSENT = object()
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
DELTA = {"head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
         "linear_key_head_dim": 6, "linear_value_head_dim": 10}
LATENT = {"num_key_value_heads": ABSENT, "n_routed_experts": 8, "num_experts_per_tok": 2,
          "moe_intermediate_size": 24, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
          "kv_lora_rank": 20, "q_lora_rank": 12, "qk_nope_head_dim": 10, "qk_rope_head_dim": 8,
          "v_head_dim": 6}

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def case(name, family, **fields):
    own = {} if family in ("llama", "mistral", "qwen2", "qwen3") else NO_TOKENS
    return name, named(family, **SMALL, **own) | fields


def named(family, **fields):
    return {"model_type": family, "architectures": [ARCHITECTURES[family]], **fields}


def wrapped(name, family, text, **fields):
    """A configuration of several modalities, with the smallest tower that is accepted."""
    tower = {"hidden_size": 16, "intermediate_size": 16, "patch_size": 4}
    if family == "gemma3":
        tower |= {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8}
        fields |= {"mm_tokens_per_image": 4}
    else:
        tower |= {"depth": 1, "num_heads": 2, "out_hidden_size": 32, "num_position_embeddings": 16}
    inner = {k: v for k, v in (SMALL | NO_TOKENS | text).items() if v is not ABSENT}
    return name, named(family, text_config=inner, vision_config=tower, **fields)


def yarn(**more):
    return {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, **more}


CASES = [
    # Sizes, biases, defaults.
    case("llama-minimal", "llama", num_key_value_heads=ABSENT),
    case("llama-biases-tied", "llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    case("llama-head-dim", "llama", head_dim=12, max_position_embeddings=100, rms_norm_eps=3e-5),
    case("llama-null-fields", "llama", head_dim=None, num_key_value_heads=None, rope_scaling=None,
         rope_parameters=None, layer_types=None, sliding_window=None),
    case("mistral-minimal", "mistral", num_attention_heads=8, num_key_value_heads=ABSENT),
    case("mistral-no-window", "mistral", sliding_window=None),
    case("mistral-window", "mistral", sliding_window=17, head_dim=10),
    case("qwen2-minimal", "qwen2", hidden_size=64, num_attention_heads=32, num_key_value_heads=ABSENT),
    case("qwen2-window-off", "qwen2", sliding_window=16, max_window_layers=0),
    case("qwen2-window-on", "qwen2", num_hidden_layers=4, use_sliding_window=True, sliding_window=16,
         max_window_layers=3),
    case("qwen2-window-default", "qwen2", use_sliding_window=True, max_window_layers=1),
    case("qwen2-window-28", "qwen2", num_hidden_layers=30, use_sliding_window=True, sliding_window=9),
    case("qwen2-window-null", "qwen2", use_sliding_window=True, sliding_window=None,
         max_window_layers=0),
    case("qwen2-head-dim", "qwen2", head_dim=14, tie_word_embeddings=True),
    case("qwen3-minimal", "qwen3"),
    case("qwen3-bias", "qwen3", head_dim=6, attention_bias=True, tie_word_embeddings=True),
    case("qwen3-layer-types", "qwen3", head_dim=8, num_hidden_layers=3, use_sliding_window=True,
         sliding_window=5, max_window_layers=0,
         layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
    # Rotary settings: both spellings, precedence, every parameter.
    case("rope-theta-old", "llama", head_dim=64, rope_theta=500000.0),
    case("rope-theta-new", "llama", head_dim=64,
         rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    case("rope-theta-inner-wins", "llama", rope_theta=77.0,
         rope_parameters={"rope_type": "default", "rope_theta": 99.0}),
    case("rope-parameters-without-theta", "llama", rope_theta=77.0,
         rope_parameters={"rope_type": "default"}),
    case("rope-scaling-empty", "llama", rope_scaling={}, rope_parameters={"rope_theta": 55.0}),
    case("rope-type-wins", "llama", rope_scaling={"type": "llama3", "rope_type": "linear", "factor": 2.0}),
    case("linear-old", "llama", head_dim=128, rope_theta=10000.0,
         rope_scaling={"type": "linear", "factor": 2.5}),
    case("linear-new", "qwen2", head_dim=20,
         rope_parameters={"rope_type": "linear", "factor": 3, "rope_theta": 5e4}),
    case("llama3-8b", "llama", head_dim=128, rope_theta=500000.0, max_position_embeddings=131072,
         rope_scaling=LLAMA3),
    case("llama3-1b", "llama", head_dim=64, max_position_embeddings=131072,
         rope_parameters={**LLAMA3, "rope_theta": 500000.0}),
    case("llama3-narrow", "mistral", head_dim=32, rope_theta=20000.0, max_position_embeddings=4096,
         rope_scaling={**LLAMA3, "factor": 3.5, "low_freq_factor": 1.5, "high_freq_factor": 2.5,
                       "original_max_position_embeddings": 300}),
    case("llama3-original-default", "llama", head_dim=32, max_position_embeddings=256,
         rope_scaling={k: v for k, v in LLAMA3.items() if k != "original_max_position_embeddings"}),
    case("llama3-original-outside", "llama", head_dim=32, max_position_embeddings=4096,
         original_max_position_embeddings=128, rope_scaling=LLAMA3),
    case("yarn-qwen3", "qwen3", head_dim=128, rope_theta=1000000.0, max_position_embeddings=40960,
         rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}),
    case("yarn-betas", "llama", head_dim=32, rope_scaling=yarn(beta_fast=4.0, beta_slow=2)),
    case("yarn-zero-betas", "llama", head_dim=32, rope_scaling=yarn(beta_fast=0, beta_slow=0)),
    case("yarn-attention-factor", "qwen2", head_dim=24, rope_scaling=yarn(attention_factor=1.3)),
    case("yarn-mscale", "llama", head_dim=64, rope_scaling=yarn(mscale=1.0, mscale_all_dim=0.5)),
    case("yarn-one-mscale", "llama", head_dim=64, rope_scaling=yarn(mscale=0.7)),
    case("yarn-no-truncate", "mistral", head_dim=64, rope_theta=3e4, rope_scaling=yarn(truncate=False)),
    case("yarn-factor-one", "llama", head_dim=16, rope_scaling=yarn(factor=1.0)),
    case("yarn-tiny-context", "llama", head_dim=16,
         rope_scaling=yarn(original_max_position_embeddings=3)),
    case("yarn-equal-ends", "llama", head_dim=4,
         rope_scaling=yarn(beta_fast=1.0, beta_slow=1.0, truncate=False)),
    case("yarn-original-default", "qwen3", head_dim=16, max_position_embeddings=512,
         rope_scaling={"type": "yarn", "factor": 2.0}),
    # Mixtures of experts.
    case("qwen3_moe-minimal", "qwen3_moe", num_attention_heads=8, num_key_value_heads=ABSENT,
         **EXPERTS),
    case("qwen3_moe-sparse", "qwen3_moe", num_hidden_layers=4, decoder_sparse_step=2,
         mlp_only_layers=[3], head_dim=12, attention_bias=True, use_sliding_window=True,
         sliding_window=11, **EXPERTS),
    case("qwen3_moe-none", "qwen3_moe", num_experts=0),
    case("mixtral-minimal", "mixtral", num_attention_heads=8, num_key_value_heads=ABSENT),
    case("mixtral-window", "mixtral", num_local_experts=3, sliding_window=9, head_dim=6,
         tie_word_embeddings=True),
    case("gpt_oss-minimal", "gpt_oss", num_attention_heads=16, num_key_value_heads=ABSENT,
         num_local_experts=4),
    case("gpt_oss-no-bias", "gpt_oss", head_dim=16, num_local_experts=5, attention_bias=False,
         sliding_window=17, layer_types=["full_attention", "sliding_attention"],
         rope_scaling=yarn(truncate=False), rope_theta=3e4),
    # Gemma.
    case("gemma2-minimal", "gemma2", num_hidden_layers=3, num_key_value_heads=ABSENT),
    case("gemma2-more", "gemma2", head_dim=12, attention_bias=True, sliding_window=6,
         query_pre_attn_scalar=20, layer_types=["full_attention", "sliding_attention"],
         tie_word_embeddings=False),
    case("gemma3_text-minimal", "gemma3_text", num_hidden_layers=7),
    case("gemma3_text-old", "gemma3_text", num_hidden_layers=3, sliding_window_pattern=2,
         head_dim=16, sliding_window=8, rope_theta=5e5, rope_local_base_freq=7e3,
         rope_scaling={"rope_type": "linear", "factor": 8.0}),
    case("gemma3_text-new", "gemma3_text", head_dim=16, query_pre_attn_scalar=24,
         layer_types=["full_attention", "sliding_attention"],
         rope_parameters={"full_attention": yarn(rope_theta=2e5),
                          "sliding_attention": {"rope_type": "default", "rope_theta": 3e3}}),
    wrapped("gemma3-bare", "gemma3", {"head_dim": 16, "vocab_size": 50, "num_hidden_layers": 6,
                                      "num_attention_heads": ABSENT, "num_key_value_heads": ABSENT,
                                      "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}),
    # Fused projections and parts of heads that rotate.
    case("phi3-minimal", "phi3", num_key_value_heads=ABSENT),
    case("phi3-partial", "phi3", sliding_window=12, partial_rotary_factor=0.75,
         hidden_size=64, rope_theta=2e4),
    case("phi3-longrope", "phi3", max_position_embeddings=131072,
         original_max_position_embeddings=64, partial_rotary_factor=0.5, hidden_size=64,
         rope_scaling={"type": "longrope", "short_factor": [1.0, 1.25, 1.5, 2.0],
                       "long_factor": [1.5, 3.0, 6.0, 20.0]}),
    case("phi3-su", "phi3", max_position_embeddings=8192,
         rope_scaling={"type": "su", "original_max_position_embeddings": 2048,
                       "short_factor": [1.0, 1.1, 1.2, 1.3],
                       "long_factor": [2.0, 3.0, 4.0, 5.0]}),
    case("llama-longrope", "llama", max_position_embeddings=512,
         rope_scaling={"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
                       "original_max_position_embeddings": 128, "factor": 4.0}),
    case("glm4-minimal", "glm4", num_attention_heads=4, num_key_value_heads=ABSENT),
    case("glm4-partial", "glm4", head_dim=16, attention_bias=False, partial_rotary_factor=0.25),
    # Dense families.
    case("olmo2-minimal", "olmo2", num_key_value_heads=ABSENT),
    case("olmo2-grouped", "olmo2", attention_bias=True, rope_theta=5e5,
         tie_word_embeddings=True),
    case("granite-minimal", "granite"),
    case("granite-multipliers", "granite", attention_multiplier=0.0625, embedding_multiplier=12,
         residual_multiplier=0.22, logits_scaling=8, attention_bias=True, mlp_bias=True),
    case("smollm3-minimal", "smollm3", num_hidden_layers=5, num_attention_heads=8,
         num_key_value_heads=ABSENT),
    case("smollm3-windows", "smollm3", num_hidden_layers=4, no_rope_layer_interval=2,
         use_sliding_window=True, sliding_window=13, attention_bias=True, mlp_bias=True),
    case("smollm3-listed", "smollm3", no_rope_layers=[0, 1], tie_word_embeddings=False),
    # Recurrent layers.
    case("qwen3_next-minimal", "qwen3_next", num_hidden_layers=5, **EXPERTS,
         shared_expert_intermediate_size=20, linear_num_key_heads=2, linear_num_value_heads=2),
    case("qwen3_next-sparse", "qwen3_next", num_hidden_layers=3, full_attention_interval=3,
         decoder_sparse_step=2, attention_bias=True, partial_rotary_factor=0.5,
         shared_expert_intermediate_size=20, linear_conv_kernel_dim=3, **EXPERTS, **DELTA),
    case("qwen3_5_text-minimal", "qwen3_5_text", num_attention_heads=8, num_key_value_heads=ABSENT,
         num_hidden_layers=4, linear_num_key_heads=2, linear_num_value_heads=4),
    case("qwen3_5_moe_text-listed", "qwen3_5_moe_text", **EXPERTS, **DELTA,
         shared_expert_intermediate_size=20, tie_word_embeddings=True,
         intermediate_size=ABSENT, layer_types=["full_attention", "linear_attention"],
         rope_parameters={"rope_type": "default", "rope_theta": 1e7, "mrope_section": [1, 1, 0],
                          "mrope_interleaved": True}),
    wrapped("qwen3_5-tied", "qwen3_5", {**DELTA, "num_hidden_layers": 4}, tie_word_embeddings=True),
    wrapped("qwen3_5_moe-wrapped", "qwen3_5_moe",
            {**EXPERTS, **DELTA, "shared_expert_intermediate_size": 20, "num_hidden_layers": 4}),
    case("lfm2-minimal", "lfm2", num_attention_heads=8, num_key_value_heads=ABSENT,
         intermediate_size=600),
    case("lfm2-listed", "lfm2", num_hidden_layers=3, full_attn_idxs=[1], conv_bias=True,
         block_multiple_of=32, block_ffn_dim_multiplier=1.3, tie_embedding=False, conv_L_cache=4),
    case("lfm2-as-given", "lfm2", layer_types=["conv", "full_attention"], block_ff_dim=56,
         block_auto_adjust_ff_dim=False),
    # Latent attention.
    case("deepseek_v3-minimal", "deepseek_v3", **LATENT),
    case("deepseek_v3-direct", "deepseek_v3", **{**LATENT, "q_lora_rank": None}, num_hidden_layers=3,
         attention_bias=True, n_shared_experts=2, rope_interleave=False,
         rope_scaling=yarn(mscale=0.8, mscale_all_dim=0.6)),
]
CASES = [(name, {k: v for k, v in config.items() if v is not ABSENT}) for name, config in CASES]


# The shape of models that people run, as their config.json has it: parameters are counted only.
QWEN_HYBRID = {
    "attn_output_gate": True, "full_attention_interval": 4, "head_dim": 256,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
    "linear_num_value_heads": 32, "linear_value_head_dim": 128, "hidden_act": "silu",
    "num_attention_heads": 16, "num_key_value_heads": 2, "partial_rotary_factor": 0.25,
    "vocab_size": 248320, "rms_norm_eps": 1e-6,
}
PUBLISHED = [
    ("qwen3-30b-a3b", named(
        "qwen3_moe", attention_bias=False, decoder_sparse_step=1, head_dim=128, hidden_act="silu",
        hidden_size=2048, intermediate_size=6144, max_position_embeddings=40960,
        max_window_layers=48, mlp_only_layers=[], moe_intermediate_size=768, norm_topk_prob=True,
        num_attention_heads=32, num_experts=128, num_experts_per_tok=8, num_hidden_layers=48,
        num_key_value_heads=4, rms_norm_eps=1e-6, rope_scaling=None, rope_theta=1000000.0,
        sliding_window=None, tie_word_embeddings=False, use_sliding_window=False,
        vocab_size=151936)),
    ("gemma-2-2b", named(
        "gemma2", attention_bias=False, attn_logit_softcapping=50.0, cache_implementation="hybrid",
        final_logit_softcapping=30.0, head_dim=256, hidden_act="gelu_pytorch_tanh",
        hidden_activation="gelu_pytorch_tanh", hidden_size=2304, intermediate_size=9216,
        max_position_embeddings=8192, num_attention_heads=8, num_hidden_layers=26,
        num_key_value_heads=4, query_pre_attn_scalar=256, rms_norm_eps=1e-6, rope_theta=10000.0,
        sliding_window=4096, vocab_size=256000)),
    ("gemma-3-1b", named(
        "gemma3_text", attention_bias=False, attn_logit_softcapping=None,
        cache_implementation="hybrid", final_logit_softcapping=None, head_dim=256,
        hidden_activation="gelu_pytorch_tanh", hidden_size=1152, intermediate_size=6912,
        max_position_embeddings=32768, num_attention_heads=4, num_hidden_layers=26,
        num_key_value_heads=1, query_pre_attn_scalar=256, rms_norm_eps=1e-6,
        rope_local_base_freq=10000, rope_scaling=None, rope_theta=1000000, sliding_window=512,
        sliding_window_pattern=6, vocab_size=262144)),
    ("phi-3.5-mini", named(
        "phi3", attention_bias=False, hidden_act="silu", hidden_size=3072, intermediate_size=8192,
        max_position_embeddings=131072, num_attention_heads=32, num_hidden_layers=32,
        num_key_value_heads=32, original_max_position_embeddings=4096, rms_norm_eps=1e-5,
        rope_scaling={"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48},
        rope_theta=10000.0, sliding_window=262144, tie_word_embeddings=False, vocab_size=32064)),
    ("phi-4-mini", named(
        "phi3", attention_bias=False, full_attn_mod=1, hidden_act="silu", hidden_size=3072,
        intermediate_size=8192, interpolate_factor=1, lm_head_bias=False, mlp_bias=False,
        max_position_embeddings=131072, num_attention_heads=24, num_hidden_layers=32,
        num_key_value_heads=8, original_max_position_embeddings=4096, partial_rotary_factor=0.75,
        rms_norm_eps=1e-5, rope_theta=10000.0, sliding_window=262144, tie_word_embeddings=True,
        rope_scaling={"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48},
        vocab_size=200064)),
    ("qwen3-next-80b-a3b", named(
        "qwen3_next", **{k: v for k, v in QWEN_HYBRID.items() if k != "attn_output_gate"}
        | {"vocab_size": 151936}, decoder_sparse_step=1, hidden_size=2048, intermediate_size=5120,
        max_position_embeddings=262144, mlp_only_layers=[], moe_intermediate_size=512,
        norm_topk_prob=True, num_experts=512, num_experts_per_tok=10, num_hidden_layers=48,
        rope_scaling=None, rope_theta=10000000, shared_expert_intermediate_size=512,
        tie_word_embeddings=False, use_sliding_window=False)),
    ("qwen3.5-35b-a3b-text", named(
        "qwen3_5_moe_text", **QWEN_HYBRID, hidden_size=2048, max_position_embeddings=262144,
        mamba_ssm_dtype="float32", mlp_only_layers=[], moe_intermediate_size=512,
        mtp_num_hidden_layers=1, num_experts=256, num_experts_per_tok=8, num_hidden_layers=40,
        rope_parameters={"mrope_interleaved": True, "mrope_section": [11, 11, 10],
                         "rope_theta": 10000000, "rope_type": "default",
                         "partial_rotary_factor": 0.25},
        shared_expert_intermediate_size=512)),
    ("qwen3.5-27b-text", named(
        "qwen3_5_text", **QWEN_HYBRID | {"num_attention_heads": 24, "num_key_value_heads": 4,
                                         "linear_num_value_heads": 48},
        hidden_size=5120, intermediate_size=17408, max_position_embeddings=262144,
        num_hidden_layers=64, rope_theta=10000000)),
    ("mixtral-8x7b", named(
        "mixtral", hidden_act="silu", hidden_size=4096, intermediate_size=14336,
        max_position_embeddings=32768, num_attention_heads=32, num_experts_per_tok=2,
        num_hidden_layers=32, num_key_value_heads=8, num_local_experts=8, rms_norm_eps=1e-5,
        rope_theta=1000000.0, router_aux_loss_coef=0.02, sliding_window=None, vocab_size=32000)),
    ("olmo-2-7b", named(
        "olmo2", attention_bias=False, hidden_act="silu", hidden_size=4096,
        intermediate_size=11008, max_position_embeddings=4096, num_attention_heads=32,
        num_hidden_layers=32, num_key_value_heads=32, rms_norm_eps=1e-6, rope_scaling=None,
        rope_theta=500000, tie_word_embeddings=False, vocab_size=100352)),
    ("granite-3.3-2b", named(
        "granite", attention_bias=False, attention_multiplier=0.015625, embedding_multiplier=12.0,
        hidden_act="silu", hidden_size=2048, intermediate_size=8192, logits_scaling=8.0,
        max_position_embeddings=131072, mlp_bias=False, num_attention_heads=32,
        num_hidden_layers=40, num_key_value_heads=8, residual_multiplier=0.22, rms_norm_eps=1e-5,
        rope_scaling=None, rope_theta=10000000.0, tie_word_embeddings=True, vocab_size=49159)),
    ("smollm3-3b", named(
        "smollm3", attention_bias=False, hidden_act="silu", hidden_size=2048,
        intermediate_size=11008, layer_types=["full_attention"] * 36,
        max_position_embeddings=65536, max_window_layers=28, mlp_bias=False,
        no_rope_layer_interval=4, no_rope_layers=[1, 1, 1, 0] * 9, num_attention_heads=16,
        num_hidden_layers=36, num_key_value_heads=4, pretraining_tp=2, rms_norm_eps=1e-6,
        rope_scaling=None, rope_theta=5000000.0, sliding_window=None, use_sliding_window=False,
        vocab_size=128256)),
    ("gpt-oss-20b", named(
        "gpt_oss", attention_bias=True, experts_per_token=4, head_dim=64, hidden_act="silu",
        hidden_size=2880, initial_context_length=4096, intermediate_size=2880,
        layer_types=["sliding_attention", "full_attention"] * 12, max_position_embeddings=131072,
        num_attention_heads=64, num_experts_per_tok=4, num_hidden_layers=24,
        num_key_value_heads=8, num_local_experts=32, rms_norm_eps=1e-5, rope_theta=150000,
        rope_scaling={"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0,
                      "original_max_position_embeddings": 4096, "rope_type": "yarn",
                      "truncate": False},
        sliding_window=128, swiglu_limit=7.0, tie_word_embeddings=False, vocab_size=201088)),
    ("glm-4-9b", named(
        "glm4", attention_bias=True, head_dim=128, hidden_act="silu", hidden_size=4096,
        intermediate_size=13696, max_position_embeddings=32768, num_attention_heads=32,
        num_hidden_layers=40, num_key_value_heads=2, partial_rotary_factor=0.5, rms_norm_eps=1e-5,
        rope_theta=10000.0, tie_word_embeddings=False, vocab_size=151552)),
    ("deepseek-v3", named(
        "deepseek_v3", attention_bias=False, aux_loss_alpha=0.001, ep_size=1,
        first_k_dense_replace=3, hidden_act="silu", hidden_size=7168, intermediate_size=18432,
        kv_lora_rank=512, max_position_embeddings=163840, moe_intermediate_size=2048,
        moe_layer_freq=1, n_group=8, n_routed_experts=256, n_shared_experts=1,
        norm_topk_prob=True, num_attention_heads=128, num_experts_per_tok=8,
        num_hidden_layers=61, num_key_value_heads=128, num_nextn_predict_layers=1,
        q_lora_rank=1536, qk_nope_head_dim=128, qk_rope_head_dim=64, rms_norm_eps=1e-6,
        rope_scaling={"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0,
                      "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096,
                      "type": "yarn"},
        rope_theta=10000, routed_scaling_factor=2.5, scoring_func="sigmoid",
        tie_word_embeddings=False, topk_group=4, topk_method="noaux_tc", v_head_dim=128,
        vocab_size=129280)),
    ("moonlight-16b-a3b", named(
        "deepseek_v3", attention_bias=False, first_k_dense_replace=1, hidden_act="silu",
        hidden_size=2048, intermediate_size=11264, kv_lora_rank=512,
        max_position_embeddings=8192, moe_intermediate_size=1408, moe_layer_freq=1, n_group=1,
        n_routed_experts=64, n_shared_experts=2, norm_topk_prob=True, num_attention_heads=16,
        num_experts_per_tok=6, num_hidden_layers=27, num_key_value_heads=16,
        num_nextn_predict_layers=0, q_lora_rank=None, qk_nope_head_dim=128, qk_rope_head_dim=64,
        rms_norm_eps=1e-5, rope_theta=50000.0, routed_scaling_factor=2.446,
        scoring_func="sigmoid", tie_word_embeddings=False, topk_group=1, topk_method="noaux_tc",
        v_head_dim=128, vocab_size=163840)),
    ("lfm2-1.2b", named(
        "lfm2", block_auto_adjust_ff_dim=True, block_dim=2048, block_ff_dim=12288,
        block_ffn_dim_multiplier=1.0, block_multiple_of=256, block_norm_eps=1e-5,
        block_use_swiglu=True, conv_L_cache=3, conv_bias=False, conv_dim=2048, conv_dim_out=2048,
        full_attn_idxs=[2, 5, 8, 10, 12, 14], hidden_size=2048, max_position_embeddings=128000,
        norm_eps=1e-5, num_attention_heads=32, num_heads=32, num_hidden_layers=16,
        num_key_value_heads=8, rope_theta=1000000.0, use_pos_enc=True, vocab_size=65536)),
]


def count(name, config):
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(config))
        read = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(read)
    # Tied matrices are one parameter; a router's bias is stored as a buffer.
    kept = [b for n, b in model.named_buffers() if n in model.state_dict()]
    total = sum(p.numel() for p in [*model.parameters(), *kept])
    return {"name": name, "config": config, "parameters": total}


def ropes(rotary, config):
    """Every setting that a layer uses, and of those of two forms the longer one, too."""
    kinds = [k for k in ("full_attention", "sliding_attention")
             if hasattr(rotary, f"{k}_inv_freq")] or [None]
    found = []
    for kind in kinds:
        prefix = f"{kind}_" if kind else ""
        rope = {
            "inv_freq": getattr(rotary, f"{prefix}inv_freq").tolist(),
            "attention_factor": float(getattr(rotary, f"{prefix}attention_scaling")),
        }
        if kind is None and rotary.rope_type == "longrope":
            limit = config.rope_parameters["original_max_position_embeddings"]
            long, _ = ROPE_INIT_FUNCTIONS["longrope"](config, None, seq_len=limit + 1)
            rope |= {"long": long.tolist(), "limit": limit}
        found.append(rope)
    return found


def window(config, attention):
    if config.model_type in ("mistral", "mixtral", "phi3"):
        return config.sliding_window
    return getattr(attention, "sliding_window", None)


def record(name, config):
    several = "text_config" in config
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(config))
        read = AutoConfig.from_pretrained(folder)
        maker = AutoModelForImageTextToText if several else AutoModelForCausalLM
        model = maker.from_config(read, dtype=torch.float32)
        model.save_pretrained(folder)
        with safe_open(pathlib.Path(folder, "model.safetensors"), "pt") as file:
            files = {key: file.get_slice(key).get_shape() for key in file.keys()}
    text = read.get_text_config()
    decoder = model.model.language_model if several else model.model
    attentions = [layer.self_attn for layer in decoder.layers if hasattr(layer, "self_attn")]
    rotary = getattr(decoder, "rotary_emb", None)
    towers = ("vision_tower", "multi_modal_projector", "visual")
    return {
        "name": name,
        "config": config,
        "files": {k: v for k, v in sorted(files.items()) if not any(t in k for t in towers)},
        "windows": [window(text, attention) for attention in attentions],
        "context_length": text.max_position_embeddings,
        "rms_norm_eps": text.norm_eps if text.model_type == "lfm2" else text.rms_norm_eps,
        "scaling": [float(attention.scaling) for attention in attentions],
        "ropes": ropes(rotary, text),
    }


def main():
    for file, cases, make in [("reference", CASES, record), ("published", PUBLISHED, count)]:
        out = pathlib.Path(__file__).with_name(f"{file}.json")
        rows = [json.dumps(make(*c), separators=(",", ":")) for c in cases]
        out.write_text("[\n" + ",\n".join(rows) + "\n]\n")
        print(len(rows), "cases,", out.stat().st_size, "bytes in", out.name)


if __name__ == "__main__":
    main()
