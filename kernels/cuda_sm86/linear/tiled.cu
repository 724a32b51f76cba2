// op: linear, many rows, any shape. y[r, n] = Σₖ x[r, k]·w[n, k] (+ bias[n]).
// x f32 [R, K], w [N, K] f32, f16 or bf16 row-major, bias f32 [N], y f32 [R, N].
// Launch: 256 threads for each tile of 64 columns (x) and 64 rows (y); each sums 4
// by 4 elements over K in order, 16 of K at a time through shared memory.
// Tolerance 2e-5.
#include "../common/base.cuh"

struct Args {
    const float* x;
    const void* w;
    const float* bias;
    float* y;
    const u32* count;
    u32 n, k, x_stride, y_stride;
};

template <class S>
DEVICE void run(const Args& p) {
    start_next();
    wait_for_previous();
    const u32 TILE = 64, DEPTH = 16;
    __shared__ float xs[DEPTH][TILE + 4];
    __shared__ float ws[DEPTH][TILE + 4];
    const u32 rows = real_rows(p.count);
    const u32 n0 = blockIdx.x * TILE, r0 = blockIdx.y * TILE;
    if (r0 >= rows) return;
    const typename S::word* w = (const typename S::word*)p.w;
    const u32 col = threadIdx.x % 16, row = threadIdx.x / 16;
    float acc[4][4] = {};
    for (u32 k0 = 0; k0 < p.k; k0 += DEPTH) {
        for (u32 e = threadIdx.x; e < TILE * DEPTH; e += 256) {
            u32 d = e % DEPTH, t = e / DEPTH, k = k0 + d;
            xs[d][t] = k < p.k && r0 + t < rows ? p.x[(u64)(r0 + t) * p.x_stride + k] : 0.0f;
            ws[d][t] = k < p.k && n0 + t < p.n ? S::get(w[(u64)(n0 + t) * p.k + k]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (u32 d = 0; d < DEPTH; ++d) {
            float4 a = *(const float4*)&xs[d][row * 4];
            float4 b = *(const float4*)&ws[d][col * 4];
            float av[4] = {a.x, a.y, a.z, a.w};
            float bv[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) acc[i][j] = fmaf(av[i], bv[j], acc[i][j]);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        u32 r = r0 + row * 4 + i;
        if (r >= rows) continue;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            u32 n = n0 + col * 4 + j;
            if (n < p.n) p.y[(u64)r * p.y_stride + n] = acc[i][j] + (p.bias ? p.bias[n] : 0.0f);
        }
    }
}

KERNEL tiled_f32(const Args p) { run<f32_t>(p); }
KERNEL tiled_f16(const Args p) { run<f16_t>(p); }
KERNEL tiled_bf16(const Args p) { run<bf16_t>(p); }
