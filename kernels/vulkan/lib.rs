//! Vulkan kernels: GLSL compiled ahead of time to SPIR-V.
