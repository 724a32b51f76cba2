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
enum { LEAST = 64 };

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

// One block of D threads for each (head, row).
KERNEL combine(const Args p) {
    start_next();
    wait_for_previous();
    const u32 head = blockIdx.x, t = blockIdx.y, d = threadIdx.x;
    const u32 rows = real_rows(p.count), position = p.positions[t];
    if (t >= rows) return;
    const u32 splits = seen_by(p, position).splits;
    const u64 slot = ((u64)t * p.heads + head) * p.splits;
    float best = p.sinks ? p.sinks[head] : -3.0e38f;
#pragma unroll 8
    for (u32 s = 0; s < splits; ++s) best = fmaxf(best, p.tops[slot + s].x);
    float total = p.sinks ? expf(p.sinks[head] - best) : 0.0f;
    float out = 0.0f;
#pragma unroll 8
    for (u32 s = 0; s < splits; ++s) {
        float2 top = p.tops[slot + s];
        float w = expf(top.x - best);
        total += w * top.y;
        out = fmaf(w, p.outs[(slot + s) * p.dim + d], out);
    }
    p.o[(u64)t * p.o_stride + head * p.dim + d] = out / total;
}
