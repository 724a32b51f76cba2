// ops: rms_norm, add+rms_norm, rms_norm+silu_mul. y = x·rsqrt(mean(x²) + eps)·(w + weight_offset)
// over groups of D elements; with add, x = a + b is an output too; with silu_mul, y is
// multiplied by silu(gate).
// a, b, x, y f32 [R, groups, D], w f32 [D]; rows strided, contiguous inside.
// Launch: one block for each (group, row). Tolerance 2e-5.
#include "reduce.cuh"

struct Norm {
    const float* x;
    const float* w;
    float* y;
    const u32* count;
    u32 dim, x_stride, y_stride;
    float eps, offset;
};

// What a thread keeps of a group: its numbers of the first few passes, and the norm's
// weights for them, which need not wait for x.
enum { KEPT = 4 };
struct Own {
    float x[KEPT], w[KEPT];
};

DEVICE void hold(Own& own, const float* w, u32 dim) {
#pragma unroll
    for (u32 j = 0; j < KEPT; ++j) {
        const u32 i = threadIdx.x + j * blockDim.x;
        own.w[j] = i < dim ? w[i] : 0.0f;
    }
}

// The norm's factor; every number of x is read once.
DEVICE float scale_of(Own& own, const float* x, u32 dim, float eps) {
    float sum = 0.0f;
#pragma unroll
    for (u32 j = 0; j < KEPT; ++j) {
        const u32 i = threadIdx.x + j * blockDim.x;
        own.x[j] = i < dim ? x[i] : 0.0f;
    }
#pragma unroll
    for (u32 j = 0; j < KEPT; ++j) sum = fmaf(own.x[j], own.x[j], sum);
    for (u32 i = threadIdx.x + KEPT * blockDim.x; i < dim; i += blockDim.x) sum = fmaf(x[i], x[i], sum);
    return 1.0f / sqrtf(block_sum(sum) / (float)dim + eps);
}

// Each element with its normed number.
template <class F>
DEVICE void each(const Own& own, const float* x, const float* w, u32 dim, float scale, float offset, const F& put) {
#pragma unroll
    for (u32 j = 0; j < KEPT; ++j) {
        const u32 i = threadIdx.x + j * blockDim.x;
        if (i < dim) put(i, j, own.x[j] * scale * (own.w[j] + offset));
    }
    for (u32 i = threadIdx.x + KEPT * blockDim.x; i < dim; i += blockDim.x) {
        put(i, (u32)KEPT, x[i] * scale * (w[i] + offset));
    }
}

KERNEL rms_norm(const Norm p) {
    Own own;
    hold(own, p.w, p.dim);
    start_next();
    const u32 rows = real_rows(p.count), r = blockIdx.y;
    wait_for_previous();
    if (r >= rows) return;
    const float* x = p.x + (u64)r * p.x_stride + blockIdx.x * p.dim;
    float* y = p.y + (u64)r * p.y_stride + blockIdx.x * p.dim;
    const float scale = scale_of(own, x, p.dim, p.eps);
    each(own, x, p.w, p.dim, scale, p.offset, [&](u32 i, u32, float v) { y[i] = v; });
}

struct GatedNorm {
    const float* x;
    const float* w;
    const float* gate;
    float* y;
    const u32* count;
    u32 dim, x_stride, gate_stride, y_stride;
    float eps, offset;
};

KERNEL gated_rms_norm(const GatedNorm p) {
    Own own;
    hold(own, p.w, p.dim);
    start_next();
    const u32 rows = real_rows(p.count), r = blockIdx.y, from = blockIdx.x * p.dim;
    wait_for_previous();
    if (r >= rows) return;
    const float* x = p.x + (u64)r * p.x_stride + from;
    const float* gate = p.gate + (u64)r * p.gate_stride + from;
    float* y = p.y + (u64)r * p.y_stride + from;
    float gates[KEPT + 1] = {};
#pragma unroll
    for (u32 j = 0; j < KEPT; ++j) {
        const u32 i = threadIdx.x + j * blockDim.x;
        if (i < p.dim) gates[j] = gate[i];
    }
    const float scale = scale_of(own, x, p.dim, p.eps);
    each(own, x, p.w, p.dim, scale, p.offset, [&](u32 i, u32 j, float v) { y[i] = silu(j < KEPT ? gates[j] : gate[i]) * v; });
}

struct AddNorm {
    const float* a;
    const float* b;
    const float* w;
    float* h;
    float* y;
    const u32* count;
    u32 dim, a_stride, b_stride, h_stride, y_stride;
    float eps, offset;
};

KERNEL add_rms_norm(const AddNorm p) {
    start_next();
    const u32 rows = real_rows(p.count), r = blockIdx.y;
    wait_for_previous();
    if (r >= rows) return;
    const float* a = p.a + (u64)r * p.a_stride;
    const float* b = p.b + (u64)r * p.b_stride;
    float* h = p.h + (u64)r * p.h_stride;
    float* y = p.y + (u64)r * p.y_stride;
    // Up to 8 elements stay in registers between the passes.
    float own[8];
    float sum = 0.0f;
#pragma unroll
    for (u32 j = 0; j < 8; ++j) {
        u32 i = threadIdx.x + j * blockDim.x;
        if (i < p.dim) {
            own[j] = a[i] + b[i];
            h[i] = own[j];
            sum += own[j] * own[j];
        }
    }
    for (u32 i = threadIdx.x + 8 * blockDim.x; i < p.dim; i += blockDim.x) {
        float v = a[i] + b[i];
        h[i] = v;
        sum += v * v;
    }
    float scale = 1.0f / sqrtf(block_sum(sum) / (float)p.dim + p.eps);
#pragma unroll
    for (u32 j = 0; j < 8; ++j) {
        u32 i = threadIdx.x + j * blockDim.x;
        if (i < p.dim) y[i] = own[j] * scale * (p.w[i] + p.offset);
    }
    for (u32 i = threadIdx.x + 8 * blockDim.x; i < p.dim; i += blockDim.x) {
        y[i] = h[i] * scale * (p.w[i] + p.offset);
    }
}
