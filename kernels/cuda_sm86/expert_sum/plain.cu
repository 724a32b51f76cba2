// op: expert_sum. out[t] = Σⱼ weights[t, j]·y[t, j], j ascending.
// y f32 [T, k, H], weights f32 [T, k], out f32 [T, H]; rows strided.
// Launch: x over H, y over rows. Tolerance 2e-5.
#include "../common/base.cuh"

struct Args {
    const float* y;
    const float* weights;
    float* out;
    const u32* count;
    u32 len, parts, y_stride, weights_stride, out_stride;
};

KERNEL expert_sum(const Args p) {
    start_next();
    wait_for_previous();
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    u32 t = blockIdx.y;
    if (i >= p.len || t >= real_rows(p.count)) return;
    float sum = 0.0f;
    for (u32 j = 0; j < p.parts; ++j) {
        sum = fmaf(p.weights[(u64)t * p.weights_stride + j], p.y[(u64)t * p.y_stride + j * p.len + i], sum);
    }
    p.out[(u64)t * p.out_stride + i] = sum;
}
