// The experts of one row among few; `route/plain.cu` says how they are chosen.
#pragma once
#include "reduce.cuh"

// A number that grows with the key, above zero, a NaN lowest.
DEVICE u32 order_of(float key) {
    const u32 bits = __float_as_uint(key);
    return key != key ? 1 : bits >> 31 ? ~bits : bits | 0x80000000u;
}

enum { ROUTED = 8 };

// Up to 256 experts without groups, by one warp: all in registers, expert i with lane i
// mod 32. `A` has n, top_k, sigmoid, normalise, scale, bias.
template <class A>
DEVICE void route_few(const A& p, const float* logits, float* weights, u32* experts) {
    const u32 lane = threadIdx.x & 31;
    float score[ROUTED];
    // Zero for those that are taken.
    u32 rank[ROUTED];
    float top = __uint_as_float(0xff800000u);
#pragma unroll
    for (u32 i = 0; i < ROUTED; ++i) {
        const u32 e = lane + 32 * i;
        score[i] = e < p.n ? logits[e] : __uint_as_float(0xff800000u);
        top = fmaxf(top, score[i]);
    }
    if (p.sigmoid) {
#pragma unroll
        for (u32 i = 0; i < ROUTED; ++i) score[i] = 1.0f / (1.0f + expf(-score[i]));
    } else {
        top = warp_max(top);
        float sum = 0.0f;
#pragma unroll
        for (u32 i = 0; i < ROUTED; ++i) {
            score[i] = lane + 32 * i < p.n ? expf(score[i] - top) : 0.0f;
            sum += score[i];
        }
        sum = warp_sum(sum);
#pragma unroll
        for (u32 i = 0; i < ROUTED; ++i) score[i] /= sum;
    }
#pragma unroll
    for (u32 i = 0; i < ROUTED; ++i) {
        const u32 e = lane + 32 * i;
        rank[i] = e < p.n ? order_of(score[i] + (p.bias ? p.bias[e] : 0.0f)) : 0;
    }
    float sum = 0.0f, own = 0.0f;
    for (u32 j = 0; j < p.top_k; ++j) {
        u32 best = 0, at = 0;
#pragma unroll
        for (u32 i = 0; i < ROUTED; ++i) {
            if (rank[i] > best) {
                best = rank[i];
                at = lane + 32 * i;
            }
        }
        const u32 top = __reduce_max_sync(0xffffffffu, best);
        // The lowest expert of equals; without any left, expert 0.
        const u32 e = top ? __reduce_min_sync(0xffffffffu, best == top ? at : 0xffffffffu) : 0;
        float mine = 0.0f;
#pragma unroll
        for (u32 i = 0; i < ROUTED; ++i) {
            if (e == lane + 32 * i) {
                mine = score[i];
                rank[i] = 0;
            }
        }
        const float w = __shfl_sync(0xffffffffu, mine, e % 32);
        sum += w;
        if (lane == j % 32) own = w;
        if (lane == 0) experts[j] = e;
        if (j % 32 == 31 || j + 1 == p.top_k) {
            const u32 at = j / 32 * 32 + lane;
            if (at <= j) weights[at] = own;
        }
    }
    __syncwarp();
    for (u32 j = lane; j < p.top_k; j += 32) {
        float w = weights[j];
        if (p.normalise) w /= sum;
        weights[j] = w * p.scale;
    }
}

