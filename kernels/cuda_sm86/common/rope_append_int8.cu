// See `rope_append.cuh`.
#include "int8.cuh"

#include "rope_append.cuh"

KERNEL rope_append_int8_kv(const Args p) { run<int8_kv_t>(p); }
