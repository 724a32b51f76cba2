// x in f16, as products of many rows with block-quantised weights take it.
#pragma once
#include "quant.cuh"

struct RoundArgs {
    const float* x;
    u16* out;
    // Sums of 32 columns over 8, f16 and rest, 2 × 8 for each chunk.
    u16* sums;
    const u32* count;
    u32 k, x_stride, chunks, aligned;
};

// x f32 [R, K] to [R, chunks·256], zeros behind the last column, and its sums.
// Launch: a warp for each chunk (x) of a row (y).
KERNEL round_rows(const RoundArgs p) {
    start_next();
    wait_for_previous();
    const u32 lane = threadIdx.x & 31, chunk = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    const u32 r = blockIdx.y, i = chunk * 256 + lane * 8;
    if (chunk >= p.chunks || r >= real_rows(p.count)) return;
    float v[8] = {};
    if (i < p.k) load8(v, p.x + (u64)r * p.x_stride + i, p.aligned != 0);
    const uint4 h = rounded8(v);
    *(uint4*)(p.out + ((u64)r * p.chunks + chunk) * 256 + lane * 8) = h;
    const float e = quad_sum(sum8(h));
    if ((lane & 3) == 0) {
        u16* to = p.sums + ((u64)r * p.chunks + chunk) * 16 + lane / 4;
        const u16 high = to_f16(e * 0.125f);
        to[0] = high;
        to[8] = to_f16(fmaf(e, 0.125f, -from_f16(high)));
    }
}

struct RoundedArgs {
    const u16* x;
    const u16* sums;
    const u8* w[MATRICES];
    const float* bias[MATRICES];
    float* y[MATRICES];
    const u32* count;
    const float* norm;
    const float* add;
    u32 k, x_stride, aligned;
    u32 n[MATRICES];
    u32 y_stride[MATRICES];
    u32 chunks, add_stride;
    float eps, offset;
};
