// op: attention, few rows, heads of 64 or 128, f16 caches, no soft cap.
// o = softmax(scale·q·kᵀ)·v as in `paged`, the visible positions split over blocks.
// q, o f32 [T, heads, D]; cache in pages of a power of two of tokens, 16 or more.
// Launch: 4 warps for each (kv head and up to 8 of its query heads, row, split). A warp
// takes every fourth group of 16 tokens; keys and values go from memory to fragments of
// the tensor cores, 16 bytes at a time: any order of the dimensions will do, so a lane
// takes those that lie together. The tensor core's 16 rows are 8 heads as f16 and what
// that left of them, for q as for the weights of the softmax, so that sums of row g and
// row g + 8 are as good as f32. Warps meet in shared memory, splits in `join`.
// Tolerance 1e-4.
#include "../common/split_mma.cuh"

KERNEL __launch_bounds__(128) split_64(const Args p) { split<64>(p, Stored()); }
KERNEL __launch_bounds__(128) split_128(const Args p) { split<128>(p, Stored()); }
