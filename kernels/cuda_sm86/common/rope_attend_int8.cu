// See `rope_attend.cu`; the caches are int8_kv. Tolerance 2e-4, as there. A turned rounding
// of the key would be more, by as much as a code is coarser than an f16; with 255 codes
// there is none in thousands of heads.
#include "split_int8.cuh"

KERNEL __launch_bounds__(128) rope_split_64(const Fresh f) { split_int8<64>(f.p, f); }
KERNEL __launch_bounds__(128) rope_split_128(const Fresh f) { split_int8<128>(f.p, f); }
