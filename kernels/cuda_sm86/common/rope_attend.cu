// ops: [rms_norm+rms_norm+]rope+rope+kv_append+attention, one row, heads of 64 or 128
// turned as a whole, f16 caches. q' = rope(norm(q)); cache[…] = rope(norm(k)), v;
// o = attention(q', cache).
// q, o f32 [1, heads, D], k, v f32 [1, kv_heads, D], norm weights f32 [D], table f32
// [1, D]; pages as `attention/split_mma.cu` takes them.
// Launch as there. Each block norms and turns its own heads of q; the one with the last
// positions makes the row's key and value, puts them where the cache would have had them
// in its fragments, and stores them. Tolerance 2e-4: a turned rounding of the key.
#include "split_mma.cuh"

KERNEL __launch_bounds__(128) rope_split_64(const Fresh f) { split<64>(f.p, f); }
KERNEL __launch_bounds__(128) rope_split_128(const Fresh f) { split<128>(f.p, f); }
