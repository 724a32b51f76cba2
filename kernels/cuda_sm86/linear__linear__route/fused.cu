// ops: linear, linear over the same x, route of the first; one row, f32: a router and the
// gate of the shared expert. x f32 [1, K], w f32 [E ≤ 256, K] and [M, K]; see
// `route/plain.cu` for the choice, here without groups.
// Launch: a warp for each column, its first weights under way before the kernel ahead has
// ended; the last block that is done routes. Sums over K: a lane's pieces in order, then
// the warp's tree. Tolerance 2e-5.
#include "../common/route.cuh"

struct Args {
    const float* x;
    const float* w[2];
    const float* bias[2];
    // [E]
    float* logits;
    float* y;
    const float* route_bias;
    float* weights;
    u32* experts;
    const u32* count;
    u32 k, aligned, n, n_other, top_k, sigmoid, normalise;
    float scale;
};

struct Route {
    const float* bias;
    u32 n, top_k, sigmoid, normalise;
    float scale;
};

enum { WARPS = 4, HELD = 16 };

// Blocks that are done; the last one sets it back.
__device__ u32 arrived;

DEVICE float4 load4(const float* x, u32 i, u32 k, bool aligned) {
    if (i >= k) return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (aligned) return *(const float4*)(x + i);
    return make_float4(x[i], i + 1 < k ? x[i + 1] : 0.0f, i + 2 < k ? x[i + 2] : 0.0f, i + 3 < k ? x[i + 3] : 0.0f);
}

KERNEL __launch_bounds__(32 * WARPS) router(const __grid_constant__ Args p) {
    __shared__ float logits[32 * ROUTED];
    __shared__ u32 last;
    const u32 lane = threadIdx.x & 31, column = blockIdx.x * WARPS + (threadIdx.x >> 5);
    const bool other = column >= p.n;
    const u32 own = other ? column - p.n : column;
    const bool there = !other || own < p.n_other;
    const float* w = there ? p.w[other] + (u64)own * p.k : p.w[0];
    float4 held[HELD];
#pragma unroll
    for (u32 i = 0; i < HELD; ++i) held[i] = load4(w, (lane + i * 32) * 4, p.k, p.aligned != 0);
    start_next();
    const u32 rows = real_rows(p.count);
    wait_for_previous();
    if (!rows) return;
    float sum = 0.0f;
    auto add = [&](float4 a, u32 i) {
        const float4 b = load4(p.x, i, p.k, p.aligned != 0);
        sum = fmaf(a.x, b.x, sum);
        sum = fmaf(a.y, b.y, sum);
        sum = fmaf(a.z, b.z, sum);
        sum = fmaf(a.w, b.w, sum);
    };
#pragma unroll
    for (u32 i = 0; i < HELD; ++i) add(held[i], (lane + i * 32) * 4);
#pragma unroll 8
    for (u32 i = (lane + HELD * 32) * 4; i < p.k; i += 128) add(load4(w, i, p.k, p.aligned != 0), i);
    sum = warp_sum(sum);
    if (lane == 0 && there) {
        if (p.bias[other]) sum += p.bias[other][own];
        (other ? p.y : p.logits)[own] = sum;
        __threadfence();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(&arrived, 1u) + 1 == gridDim.x;
        if (last) arrived = 0;
    }
    __syncthreads();
    if (!last || threadIdx.x >= 32) return;
    __threadfence();
    for (u32 i = lane; i < p.n; i += 32) logits[i] = __ldcg(p.logits + i);
    __syncwarp();
    route_few(Route{p.route_bias, p.n, p.top_k, p.sigmoid, p.normalise, p.scale}, logits, p.weights, p.experts);
}
