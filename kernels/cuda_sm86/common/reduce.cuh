// Sums and maxima over a warp and over a block, always in the same order.
#pragma once
#include "base.cuh"

DEVICE float warp_sum(float x) {
#pragma unroll
    for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}
DEVICE float warp_max(float x) {
#pragma unroll
    for (int d = 16; d; d >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, d));
    return x;
}
DEVICE u32 warp_min(u32 x) {
#pragma unroll
    for (int d = 16; d; d >>= 1) x = min(x, __shfl_xor_sync(0xffffffffu, x, d));
    return x;
}

// All threads call, all get the result; blocks of whole warps.
DEVICE float block_sum(float x) {
    __shared__ float parts[32];
    x = warp_sum(x);
    if (blockDim.x <= 32) return x;
    __syncthreads();
    if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = x;
    __syncthreads();
    x = 0.0f;
    for (u32 i = 0; i < blockDim.x >> 5; ++i) x += parts[i];
    return x;
}
// The same of the first N numbers at once.
template <int N>
DEVICE void block_sums(float* x) {
    __shared__ float parts[N][32];
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = warp_sum(x[i]);
    if (blockDim.x <= 32) return;
    __syncthreads();
    if ((threadIdx.x & 31) == 0) {
#pragma unroll
        for (int i = 0; i < N; ++i) parts[i][threadIdx.x >> 5] = x[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; ++i) {
        x[i] = 0.0f;
        for (u32 w = 0; w < blockDim.x >> 5; ++w) x[i] += parts[i][w];
    }
}
DEVICE float block_max(float x) {
    __shared__ float parts[32];
    x = warp_max(x);
    if (blockDim.x <= 32) return x;
    __syncthreads();
    if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = x;
    __syncthreads();
    x = parts[0];
    for (u32 i = 1; i < blockDim.x >> 5; ++i) x = fmaxf(x, parts[i]);
    return x;
}
DEVICE u32 block_min(u32 x) {
    __shared__ u32 parts[32];
    x = warp_min(x);
    if (blockDim.x <= 32) return x;
    __syncthreads();
    if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = x;
    __syncthreads();
    x = parts[0];
    for (u32 i = 1; i < blockDim.x >> 5; ++i) x = min(x, parts[i]);
    return x;
}
