// See `split_mma.cu` and `../common/split_int8.cuh`. Pages of 16 tokens or more.
#include "../common/split_int8.cuh"

KERNEL __launch_bounds__(128) split_64(const Args p) { split_int8<64>(p, Stored()); }
KERNEL __launch_bounds__(128) split_128(const Args p) { split_int8<128>(p, Stored()); }
