// op: gather_rows. y[l] = x[logit_rows[l]].
// x f32 [T, N], y f32 [L, N], rows strided.
// Launch: x over the elements of a row, y over rows. Exact.
#include "../common/base.cuh"

struct Args {
    const float* x;
    float* y;
    const u32* count;
    const u32* rows;
    u32 len, x_stride, y_stride;
};

KERNEL gather_rows(const Args p) {
    start_next();
    wait_for_previous();
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    u32 r = blockIdx.y;
    if (i >= p.len || r >= real_rows(p.count)) return;
    p.y[(u64)r * p.y_stride + i] = p.x[(u64)p.rows[r] * p.x_stride + i];
}
