// See `paged.cuh`.
#include "../common/int8.cuh"

#include "paged.cuh"

KERNEL paged_int8_kv(const Args p) { run<int8_kv_t>(p); }
