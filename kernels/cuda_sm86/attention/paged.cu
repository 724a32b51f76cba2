// See `paged.cuh`.
#include "paged.cuh"

KERNEL paged_f32(const Args p) { run<f32_t>(p); }
KERNEL paged_f16(const Args p) { run<f16_t>(p); }
KERNEL paged_bf16(const Args p) { run<bf16_t>(p); }
