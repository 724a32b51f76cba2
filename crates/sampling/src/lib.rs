//! Logits to token: the sampler chain and its counter-based random numbers.
