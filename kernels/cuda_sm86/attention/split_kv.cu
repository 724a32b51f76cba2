// See `split_kv.cuh`.
#include "split_kv.cuh"

#define ENTRY(T, D, H) \
    KERNEL split_##T##_##D##_##H(const Args p) { split<T##_t, D, H>(p); }
#define ENTRIES(T)                                         \
    ENTRY(T, 64, 1) ENTRY(T, 64, 2) ENTRY(T, 64, 4)        \
    ENTRY(T, 128, 1) ENTRY(T, 128, 2) ENTRY(T, 128, 4)     \
    ENTRY(T, 256, 1) ENTRY(T, 256, 2) ENTRY(T, 256, 4)
ENTRIES(f16)
ENTRIES(bf16)
