// op: argmax. ids[r] = the lowest index of the largest logit; NaN is never the
// largest, and a row with nothing above -inf gives 0xffffffff.
// logits f32 [R, V], rows strided; ids u32 [R].
// Launch: `part` has a block for each (part, row), `join` one for each row. Exact.
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

// The largest of what the threads have, at its lowest index; all get both.
DEVICE void largest(float& best, u32& id) {
    const float top = block_max(best);
    id = block_min(best == top ? id : 0xffffffffu);
    best = top;
}

KERNEL part(const Args p) {
    start_next();
    wait_for_previous();
    const u32 r = blockIdx.y;
    if (r >= real_rows(p.count)) return;
    const float* x = p.x + (u64)r * p.x_stride;
    float best = __uint_as_float(0xff800000u);
    u32 id = 0xffffffffu;
    const u32 end = min(p.len, (blockIdx.x + 1) * p.part_len);
#pragma unroll 4
    for (u32 i = blockIdx.x * p.part_len + threadIdx.x; i < end; i += blockDim.x) {
        float v = x[i];
        if (v > best) {
            best = v;
            id = i;
        }
    }
    largest(best, id);
    if (threadIdx.x == 0) {
        p.tops[(u64)r * p.parts + blockIdx.x] = best;
        p.lowest[(u64)r * p.parts + blockIdx.x] = id;
    }
}

KERNEL join(const Args p) {
    start_next();
    wait_for_previous();
    const u32 r = blockIdx.x;
    if (r >= real_rows(p.count)) return;
    const bool there = threadIdx.x < p.parts;
    float best = there ? p.tops[(u64)r * p.parts + threadIdx.x] : __uint_as_float(0xff800000u);
    u32 id = there ? p.lowest[(u64)r * p.parts + threadIdx.x] : 0xffffffffu;
    largest(best, id);
    if (threadIdx.x == 0) p.ids[(u64)r * p.ids_stride] = id;
}
