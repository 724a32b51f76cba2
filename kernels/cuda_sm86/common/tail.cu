// ops: expert_sum+add+rms_norm, and with a gated, shared expert between them,
// expert_sum+sigmoid_mul+add+add+rms_norm: the end of a mixture's layer and the norm of
// the next. h = x + (Σⱼ weights[j]·y[j] + sigmoid(gate)·shared), j ascending,
// out = h·rsqrt(mean(h²) + eps)·(w + offset).
// y f32 [T, k, D], weights f32 [T, k], gate f32 [T, D] or [T, 1], shared, x, h, out
// f32 [T, D], w f32 [D]; rows strided. Launch: a block for each row. Tolerance 2e-5.
#include "reduce.cuh"

struct Args {
    const float* y;
    const float* weights;
    // Null where there is no shared expert.
    const float* gate;
    const float* shared;
    const float* x;
    const float* w;
    float* h;
    float* out;
    const u32* count;
    u32 dim, parts, one_gate;
    u32 y_stride, weights_stride, gate_stride, shared_stride, x_stride, h_stride, out_stride;
    float eps, offset;
};

KERNEL tail(const Args p) {
    // Elements that a thread keeps between the passes.
    const u32 KEPT = 4;
    const u32 r = blockIdx.x;
    float w[KEPT];
#pragma unroll
    for (u32 j = 0; j < KEPT; ++j) {
        const u32 i = threadIdx.x + j * blockDim.x;
        w[j] = i < p.dim ? p.w[i] : 0.0f;
    }
    start_next();
    const u32 rows = real_rows(p.count);
    wait_for_previous();
    if (r >= rows) return;
    const float* y = p.y + (u64)r * p.y_stride;
    const float* weights = p.weights + (u64)r * p.weights_stride;
    const float* x = p.x + (u64)r * p.x_stride;
    float* h = p.h + (u64)r * p.h_stride;
    float* out = p.out + (u64)r * p.out_stride;
    auto element = [&](u32 i) {
        const float before = x[i];
        float sum = 0.0f;
#pragma unroll 8
        for (u32 j = 0; j < p.parts; ++j) sum = fmaf(weights[j], y[(u64)j * p.dim + i], sum);
        if (p.shared) {
            const float gate = p.gate[(u64)r * p.gate_stride + (p.one_gate ? 0 : i)];
            sum += sigmoid(gate) * p.shared[(u64)r * p.shared_stride + i];
        }
        return before + sum;
    };
    float own[KEPT], squares = 0.0f;
#pragma unroll
    for (u32 j = 0; j < KEPT; ++j) {
        const u32 i = threadIdx.x + j * blockDim.x;
        if (i >= p.dim) break;
        own[j] = element(i);
        h[i] = own[j];
        squares = fmaf(own[j], own[j], squares);
    }
    for (u32 i = threadIdx.x + KEPT * blockDim.x; i < p.dim; i += blockDim.x) {
        const float v = element(i);
        h[i] = v;
        squares = fmaf(v, v, squares);
    }
    const float scale = 1.0f / sqrtf(block_sum(squares) / (float)p.dim + p.eps);
#pragma unroll
    for (u32 j = 0; j < KEPT; ++j) {
        const u32 i = threadIdx.x + j * blockDim.x;
        if (i < p.dim) out[i] = own[j] * scale * (w[j] + p.offset);
    }
    for (u32 i = threadIdx.x + KEPT * blockDim.x; i < p.dim; i += blockDim.x) {
        out[i] = h[i] * scale * (p.w[i] + p.offset);
    }
}
