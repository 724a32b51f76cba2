// See `split_kv.cuh`. Blocks of four heads alone, whatever the group: one head has the
// tensor cores' variant.
#include "../common/int8.cuh"

#include "split_kv.cuh"

KERNEL split_int8_kv_64_4(const Args p) { split<int8_kv_t, 64, 4>(p); }
KERNEL split_int8_kv_128_4(const Args p) { split<int8_kv_t, 128, 4>(p); }
KERNEL split_int8_kv_256_4(const Args p) { split<int8_kv_t, 256, 4>(p); }
