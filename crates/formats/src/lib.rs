//! Model files: safetensors, Hugging Face directories, tokenizer, chat template.
