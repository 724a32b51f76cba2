// Pairs of rows and experts that they chose, brought in order of their experts on the
// device: `sort_pairs` gives each expert a block, which counts the pairs of all lower
// experts and lists its own; which tiles of pairs there are follows from the counts. Pairs
// of experts that do not exist are in no tile.
#pragma once
#include "base.cuh"

// Pairs of a tile, and most experts of a stack.
enum { GROUP = 64, MOST_EXPERTS = 1024 };

struct Sort {
    const u32* chosen;
    // First pair of each expert, and the end of the last.
    u32* starts;
    u32* pairs;
    // Of each pair its place in that order, where that is asked for.
    u32* places;
    const u32* count;
    u32 parts, chosen_stride, stack;
};

// Sum of a block's numbers for all, and of those before a thread; up to 32 warps.
DEVICE u32 sum_before(u32 x, u32& all, u32 (&parts)[32]) {
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    u32 upto = x;
#pragma unroll
    for (u32 d = 1; d < 32; d <<= 1) {
        const u32 other = __shfl_up_sync(0xffffffffu, upto, d);
        if (lane >= d) upto += other;
    }
    __syncthreads();
    if (lane == 31) parts[warp] = upto;
    __syncthreads();
    u32 before = 0;
    all = 0;
    for (u32 i = 0; i < blockDim.x >> 5; ++i) {
        if (i == warp) before = all;
        all += parts[i];
    }
    return before + upto - x;
}

// Launch: 1024 threads for each expert; a warp has a stretch of the pairs.
KERNEL __launch_bounds__(1024) sort_pairs(const Sort p) {
    __shared__ u32 lower[32], own[32];
    start_next();
    wait_for_previous();
    const u32 expert = blockIdx.x, total = real_rows(p.count) * p.parts;
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const u32 stretch = ((total + warps - 1) / warps + 31) & ~31u;
    const u32 begin = min(warp * stretch, total), end = min(begin + stretch, total);
    const bool dense = p.chosen_stride == p.parts;
    // Behind the end there is nobody's expert.
    auto chosen = [&](u32 i) {
        if (i >= end) return 0xffffffffu;
        return p.chosen[dense ? i : (u64)(i / p.parts) * p.chosen_stride + i % p.parts];
    };
    u32 less = 0, equal = 0;
#pragma unroll 8
    for (u32 first = begin; first < end; first += 32) {
        const u32 e = chosen(first + lane);
        less += __popc(__ballot_sync(0xffffffffu, e < expert));
        equal += __popc(__ballot_sync(0xffffffffu, e == expert));
    }
    if (lane == 0) {
        lower[warp] = less;
        own[warp] = equal;
    }
    __syncthreads();
    u32 start = 0, mine = 0, all = 0;
    for (u32 i = 0; i < warps; ++i) {
        start += lower[i];
        if (i == warp) mine = all;
        all += own[i];
    }
    if (threadIdx.x == 0) {
        p.starts[expert] = start;
        if (expert + 1 == p.stack) p.starts[p.stack] = start + all;
    }
    u32 at = start + mine;
    if (equal == 0) return;
#pragma unroll 4
    for (u32 first = begin; first < end; first += 32) {
        const bool is = chosen(first + lane) == expert;
        const u32 which = __ballot_sync(0xffffffffu, is);
        const u32 place = at + __popc(which & ((1u << lane) - 1));
        if (is) p.pairs[place] = first + lane;
        if (is && p.places) p.places[first + lane] = place;
        at += __popc(which);
    }
}

// Tiles of pairs before each expert's.
template <u32 THREADS>
DEVICE void count_tiles(const u32* starts, u32 stack, u32 (&before)[MOST_EXPERTS + 1], u32 (&parts)[32]) {
    const u32 PER = MOST_EXPERTS / THREADS, e0 = threadIdx.x * PER;
    u32 own[PER], sum = 0, all;
#pragma unroll
    for (u32 i = 0; i < PER; ++i) {
        own[i] = e0 + i < stack ? (starts[e0 + i + 1] - starts[e0 + i] + GROUP - 1) / GROUP : 0;
        sum += own[i];
    }
    sum = sum_before(sum, all, parts);
#pragma unroll
    for (u32 i = 0; i < PER; ++i) {
        before[e0 + i] = sum;
        sum += own[i];
    }
    if (threadIdx.x == THREADS - 1) before[MOST_EXPERTS] = sum;
    __syncthreads();
}

// The expert of a tile: the last one whose tiles start there or before.
DEVICE u32 expert_of(const u32 (&before)[MOST_EXPERTS + 1], u32 tile) {
    u32 e = 0;
#pragma unroll
    for (u32 d = MOST_EXPERTS / 2; d; d >>= 1) {
        if (before[e + d] <= tile) e += d;
    }
    return e;
}
