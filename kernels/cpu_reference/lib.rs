//! The oracle: plain, readable, deterministic CPU kernels.
