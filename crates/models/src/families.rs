//! The families, a file each. A family derives from another where it can and sets what differs.

mod deepseek_v3;
mod gemma2;
mod gemma3;
mod glm4;
mod gpt_oss;
mod granite;
mod lfm2;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_5;
mod qwen3_moe;
mod qwen3_next;
mod smollm3;
