"""Writes reference.json: what transformers makes of configurations, for tests/reference.rs.

    python generate.py        (transformers 5.17.0, torch 2.11.0)

Each configuration is written as a config.json, read back with AutoConfig and instantiated, so that
spellings, defaults and precedence are transformers' own. Recorded: every parameter's shape, each
layer's window, the rotary frequencies and their attention factor.
"""

import json
import pathlib
import tempfile

import torch
from transformers import AutoConfig, AutoModelForCausalLM

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
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
ABSENT = object()


def case(name, family, **fields):
    config = {"model_type": family, "architectures": [ARCHITECTURES[family]], **SMALL, **fields}
    return name, {k: v for k, v in config.items() if v is not ABSENT}


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
]


def record(name, config):
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(config))
        read = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(read, dtype=torch.float32)
    rotary = model.model.rotary_emb
    windows = [
        read.sliding_window if read.model_type == "mistral"
        else getattr(layer.self_attn, "sliding_window", None)
        for layer in model.model.layers
    ]
    return {
        "name": name,
        "config": config,
        "parameters": {n: list(p.shape) for n, p in model.named_parameters()},
        "windows": windows,
        "context_length": read.max_position_embeddings,
        "rms_norm_eps": read.rms_norm_eps,
        "scaling": model.model.layers[0].self_attn.scaling,
        "inv_freq": rotary.inv_freq.tolist(),
        "attention_factor": float(rotary.attention_scaling),
    }


def main():
    out = pathlib.Path(__file__).with_name("reference.json")
    rows = [json.dumps(record(*c), separators=(",", ":")) for c in CASES]
    out.write_text("[\n" + ",\n".join(rows) + "\n]\n")
    print(len(rows), "cases,", out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
