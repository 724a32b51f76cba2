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

KERNEL rms_norm(const Norm p) {
    start_next();
    const u32 rows = real_rows(p.count), r = blockIdx.y;
    wait_for_previous();
    if (r >= rows) return;
    const float* x = p.x + (u64)r * p.x_stride + blockIdx.x * p.dim;
    float* y = p.y + (u64)r * p.y_stride + blockIdx.x * p.dim;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < p.dim; i += blockDim.x) sum += x[i] * x[i];
    float scale = 1.0f / sqrtf(block_sum(sum) / (float)p.dim + p.eps);
    for (u32 i = threadIdx.x; i < p.dim; i += blockDim.x) y[i] = x[i] * scale * (p.w[i] + p.offset);
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
    start_next();
    const u32 rows = real_rows(p.count), r = blockIdx.y, from = blockIdx.x * p.dim;
    wait_for_previous();
    if (r >= rows) return;
    const float* x = p.x + (u64)r * p.x_stride + from;
    const float* gate = p.gate + (u64)r * p.gate_stride + from;
    float* y = p.y + (u64)r * p.y_stride + from;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < p.dim; i += blockDim.x) sum += x[i] * x[i];
    const float scale = 1.0f / sqrtf(block_sum(sum) / (float)p.dim + p.eps);
    for (u32 i = threadIdx.x; i < p.dim; i += blockDim.x) {
        y[i] = silu(gate[i]) * (x[i] * scale * (p.w[i] + p.offset));
    }
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
