// op: argmax. ids[r] = the lowest index of the largest logit; NaN is never the
// largest, and a row with nothing above -inf gives 0xffffffff.
// logits f32 [R, V], rows strided; ids u32 [R].
// Launch: a block for each (part, row); the last of a row joins its parts. Exact.
#include "../common/reduce.cuh"

struct Args {
    const float* x;
    u32* ids;
    // [R, parts] maxima, then [R, parts] indices.
    float* tops;
    u32* lowest;
    const u32* count;
    u32 len, x_stride, ids_stride, parts, part_len;
};

// -inf.
DEVICE float nothing() { return __uint_as_float(0xff800000u); }
const u32 NOWHERE = 0xffffffffu;

// The largest of what the threads have, at its lowest index; all get both.
DEVICE void largest(float& best, u32& id) {
    const float top = block_max(best);
    id = block_min(best == top ? id : NOWHERE);
    best = top;
}

// Blocks of a row that have written their part; the last one sets it back.
enum { MOST_ROWS = 16384 };
__device__ u32 arrived[MOST_ROWS];

KERNEL plain(const Args p) {
    __shared__ u32 last;
    start_next();
    const u32 rows = real_rows(p.count), r = blockIdx.y;
    wait_for_previous();
    if (r >= rows) return;
    const float* x = p.x + (u64)r * p.x_stride;
    float best = nothing();
    u32 id = NOWHERE;
    const u32 end = min(p.len, (blockIdx.x + 1) * p.part_len);
#pragma unroll 8
    for (u32 i = blockIdx.x * p.part_len + threadIdx.x; i < end; i += blockDim.x) {
        float v = x[i];
        if (v > best) {
            best = v;
            id = i;
        }
    }
    largest(best, id);
    const u64 row = (u64)r * p.parts;
    if (threadIdx.x == 0) {
        p.tops[row + blockIdx.x] = best;
        p.lowest[row + blockIdx.x] = id;
        __threadfence();
        last = atomicAdd(&arrived[r], 1u) + 1 == p.parts;
        if (last) arrived[r] = 0;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    best = nothing();
    id = NOWHERE;
    if (threadIdx.x < p.parts) {
        best = __ldcg(p.tops + row + threadIdx.x);
        id = __ldcg(p.lowest + row + threadIdx.x);
    }
    largest(best, id);
    if (threadIdx.x == 0) p.ids[(u64)r * p.ids_stride] = id;
}
