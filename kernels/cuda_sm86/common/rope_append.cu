// See `rope_append.cuh`.
#include "rope_append.cuh"

KERNEL rope_append_f32(const Args p) { run<f32_t>(p); }
KERNEL rope_append_f16(const Args p) { run<f16_t>(p); }
KERNEL rope_append_bf16(const Args p) { run<bf16_t>(p); }
