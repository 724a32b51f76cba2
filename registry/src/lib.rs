//! Kernel keys, the kernel contract, self-registration and exact resolution.
