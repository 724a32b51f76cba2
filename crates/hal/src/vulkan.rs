//! Vulkan 1.3, opened at run time.
