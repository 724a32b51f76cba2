// op: argmax. ids[r] = the lowest index of the largest logit; NaN is never the
// largest, and a row with nothing above -inf gives 0xffffffff.
// logits f32 [R, V], rows strided; ids u32 [R].
// Launch: one block for each row (y). Exact.
#include "../common/reduce.cuh"

struct Args {
    const float* x;
    u32* ids;
    const u32* count;
    u32 len, x_stride, ids_stride;
};

KERNEL argmax(const Args p) {
    u32 r = blockIdx.y;
    if (r >= real_rows(p.count)) return;
    const float* x = p.x + (u64)r * p.x_stride;
    const float none = __uint_as_float(0xff800000u);
    float best = none;
    u32 id = 0xffffffffu;
#pragma unroll 4
    for (u32 i = threadIdx.x; i < p.len; i += blockDim.x) {
        float v = x[i];
        if (v > best) {
            best = v;
            id = i;
        }
    }
    float top = block_max(best);
    u32 lowest = block_min(best == top ? id : 0xffffffffu);
    if (threadIdx.x == 0) p.ids[(u64)r * p.ids_stride] = lowest;
}
