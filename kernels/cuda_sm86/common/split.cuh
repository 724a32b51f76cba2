// Attention whose positions are split over blocks: the arguments, the splits, and how
// they are joined.
#pragma once
#include "cache.cuh"

struct Args {
    const float* q;
    const float* sinks;
    float* o;
    // [T, heads, splits] maxima and sums, then [T, heads, splits, D] outputs.
    float2* tops;
    float* outs;
    const void* cache;
    const u32* positions;
    const u32* row_span;
    const u32* tables;
    const u32* count;
    Pages c;
    u32 dim, group, q_stride, o_stride, window;
    float scale, cap;
    u32 heads, splits, head_blocks, shift;
};

// Positions of a split, at least.
enum { LEAST = 128 };

struct Seen {
    u32 first, end, splits, chunk;
};

// The positions that a row sees, in chunks that depend on nothing else.
DEVICE Seen seen_by(const Args& p, u32 position) {
    Seen s;
    s.first = p.window && position + 1 > p.window ? position + 1 - p.window : 0;
    s.end = position + 1;
    u32 len = s.end - s.first;
    s.splits = min(p.splits, (len + LEAST - 1) / LEAST);
    // Whole groups of 16.
    s.chunk = ((len + s.splits - 1) / s.splits + 15) & ~15u;
    s.splits = (len + s.chunk - 1) / s.chunk;
    return s;
}

// Blocks that have written their part, for each (row, group of heads); the last one sets
// it back.
enum { MOST_GROUPS = 16384 };
__device__ u32 arrived[MOST_GROUPS];

// All threads call, when the block has written its part of heads [head0, head0 + have):
// the last of the splits joins them, in order.
DEVICE void join(const Args& p, u32 row, u32 group, u32 head0, u32 have, u32 splits) {
    __shared__ u32 last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(&arrived[group], 1u) + 1 == splits;
        if (last) arrived[group] = 0;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    const u32 quads = p.dim / 4;
    for (u32 e = threadIdx.x; e < have * quads; e += blockDim.x) {
        const u32 head = head0 + e / quads, d = e % quads * 4;
        const u64 slot = ((u64)row * p.heads + head) * p.splits;
        const float sink = p.sinks ? p.sinks[head] : -3.0e38f;
        float best = sink, total = p.sinks ? 1.0f : 0.0f;
        float4 out = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        // Several at a time, so that their loads are under way together.
        const u32 TOGETHER = 8;
        for (u32 first = 0; first < splits; first += TOGETHER) {
            float2 top[TOGETHER];
            float4 v[TOGETHER];
#pragma unroll
            for (u32 i = 0; i < TOGETHER; ++i) {
                const u32 s = min(first + i, splits - 1);
                top[i] = __ldcg(&p.tops[slot + s]);
                v[i] = __ldcg((const float4*)(p.outs + (slot + s) * p.dim + d));
            }
            float now = best;
#pragma unroll
            for (u32 i = 0; i < TOGETHER; ++i) now = fmaxf(now, top[i].x);
            const float keep = expf(best - now);
            best = now;
            total *= keep;
            out = make_float4(out.x * keep, out.y * keep, out.z * keep, out.w * keep);
#pragma unroll
            for (u32 i = 0; i < TOGETHER; ++i) {
                const float w = first + i < splits ? expf(top[i].x - best) : 0.0f;
                total = fmaf(w, top[i].y, total);
                out.x = fmaf(w, v[i].x, out.x);
                out.y = fmaf(w, v[i].y, out.y);
                out.z = fmaf(w, v[i].z, out.z);
                out.w = fmaf(w, v[i].w, out.w);
            }
        }
        float* to = p.o + (u64)row * p.o_stride + head * p.dim + d;
        to[0] = out.x / total;
        to[1] = out.y / total;
        to[2] = out.z / total;
        to[3] = out.w / total;
    }
}
