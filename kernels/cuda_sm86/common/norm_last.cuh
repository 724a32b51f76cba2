// A norm of what a kernel of one row has made, in the same launch.
#pragma once
#include "reduce.cuh"

// Blocks that are done; the last one sets it back.
__device__ u32 arrived;

// out = y·rsqrt(mean(y²) + eps)·(w + offset) over n elements, by the last of the blocks
// (x) that come here with their part of y written. All threads call.
DEVICE void norm_last(const float* y, const float* w, float* out, u32 n, float eps, float offset) {
    __shared__ u32 last;
    // Numbers that a thread keeps between the passes.
    const u32 KEPT = 8;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(&arrived, 1u) + 1 == gridDim.x;
        if (last) arrived = 0;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    float own[KEPT], weight[KEPT], squares = 0.0f;
#pragma unroll
    for (u32 j = 0; j < KEPT; ++j) {
        const u32 i = threadIdx.x + j * blockDim.x;
        own[j] = i < n ? __ldcg(y + i) : 0.0f;
        weight[j] = i < n ? w[i] : 0.0f;
    }
#pragma unroll
    for (u32 j = 0; j < KEPT; ++j) squares = fmaf(own[j], own[j], squares);
    for (u32 i = threadIdx.x + KEPT * blockDim.x; i < n; i += blockDim.x) {
        const float v = __ldcg(y + i);
        squares = fmaf(v, v, squares);
    }
    const float scale = 1.0f / sqrtf(block_sum(squares) / (float)n + eps);
#pragma unroll
    for (u32 j = 0; j < KEPT; ++j) {
        const u32 i = threadIdx.x + j * blockDim.x;
        if (i < n) out[i] = own[j] * scale * (weight[j] + offset);
    }
    for (u32 i = threadIdx.x + KEPT * blockDim.x; i < n; i += blockDim.x) {
        out[i] = __ldcg(y + i) * scale * (w[i] + offset);
    }
}
