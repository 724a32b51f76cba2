// op: linear, many rows of few columns of f32 weights, on tensor cores: routers, gates.
// y[r, n] = Σₖ x[r, k]·w[n, k] (+ bias[n]). x f32 [R, K], w f32 [N, K] row-major, bias f32
// [N], y f32 [R, N]. A number is the sum of two of tf32, both cut off; of their four
// products the one of the second ones is left out. Each of that is up to 2⁻²⁰ of a product.
// Infinite numbers make sums of them no number.
// Launch: 8 warps for each 32 columns (x) by 32 rows (y); every eighth 16 of K is a warp's,
// and the warps' sums are added in order. A lane has four neighbours of K of its rows, so
// that what one product calls columns t and t + 4 lies together. Tolerance 1e-4: tensor
// cores cut off the last bits of every sum.
#include "f32_linear.cuh"

enum { WARPS = 8, TILE = 32, DEPTH = 16 };

// Four neighbours of a row, zeros where there are none.
DEVICE void load4(float (&v)[4], const float* row, u32 k, u32 end, bool there, bool aligned) {
    if (aligned && there && k < end) {
        const float4 a = *(const float4*)(row + k);
        v[0] = a.x;
        v[1] = a.y;
        v[2] = a.z;
        v[3] = a.w;
        return;
    }
#pragma unroll
    for (u32 i = 0; i < 4; ++i) v[i] = there && k + i < end ? row[k + i] : 0.0f;
}

struct Split {
    u32 high, low;
};
DEVICE Split split(float x) {
    const u32 high = __float_as_uint(x) & 0xffffe000u;
    return {high, __float_as_uint(x - __uint_as_float(high))};
}

DEVICE void mma_tf32(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

KERNEL __launch_bounds__(256) tf32x3(const Args p) {
    __shared__ float sums[WARPS][TILE][TILE + 1];
    start_next();
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    const u32 n0 = blockIdx.x * TILE, r0 = blockIdx.y * TILE;
    wait_for_previous();
    const u32 rows = real_rows(p.count);
    if (r0 >= rows) return;
    // Rows g, g + 8, … of x and of w, those behind the last zeros.
    float x[4][4], w[4][4];
    auto load = [&](u32 k) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            const u32 r = r0 + g + i * 8, n = n0 + g + i * 8;
            load4(x[i], p.x + (u64)r * p.x_stride, k + t * 4, p.k, r < rows, p.aligned != 0);
            load4(w[i], p.w + (u64)n * p.k, k + t * 4, p.k, n < p.n, p.aligned != 0);
        }
    };
    float acc[2][4][4] = {};
    load(warp * DEPTH);
    for (u32 k = warp * DEPTH; k < p.k; k += WARPS * DEPTH) {
        float a[4][4], b[4][4];
#pragma unroll
        for (u32 i = 0; i < 16; ++i) {
            a[i / 4][i % 4] = x[i / 4][i % 4];
            b[i / 4][i % 4] = w[i / 4][i % 4];
        }
        load(k + WARPS * DEPTH);
#pragma unroll
        for (u32 s = 0; s < 2; ++s) {
            Split u[4][2], v[4][2];
#pragma unroll
            for (u32 i = 0; i < 8; ++i) {
                u[i / 2][i % 2] = split(a[i / 2][s * 2 + i % 2]);
                v[i / 2][i % 2] = split(b[i / 2][s * 2 + i % 2]);
            }
#pragma unroll
            for (u32 m = 0; m < 2; ++m) {
                const Split(&lo)[2] = u[m * 2], (&hi)[2] = u[m * 2 + 1];
#pragma unroll
                for (u32 j = 0; j < 4; ++j) {
                    mma_tf32(acc[m][j], lo[0].low, hi[0].low, lo[1].low, hi[1].low, v[j][0].high, v[j][1].high);
                    mma_tf32(acc[m][j], lo[0].high, hi[0].high, lo[1].high, hi[1].high, v[j][0].low, v[j][1].low);
                    mma_tf32(acc[m][j], lo[0].high, hi[0].high, lo[1].high, hi[1].high, v[j][0].high, v[j][1].high);
                }
            }
        }
    }
#pragma unroll
    for (u32 m = 0; m < 2; ++m) {
#pragma unroll
        for (u32 j = 0; j < 4; ++j) {
#pragma unroll
            for (u32 e = 0; e < 4; ++e) sums[warp][m * 16 + g + e / 2 * 8][j * 8 + t * 2 + e % 2] = acc[m][j][e];
        }
    }
    __syncthreads();
#pragma unroll
    for (u32 i = 0; i < TILE / WARPS; ++i) {
        const u32 row = warp + i * WARPS, r = r0 + row, n = n0 + lane;
        float sum = 0.0f;
#pragma unroll
        for (u32 o = 0; o < WARPS; ++o) sum += sums[o][row][lane];
        if (r < rows && n < p.n) p.y[(u64)r * p.y_stride + n] = sum + (p.bias ? p.bias[n] : 0.0f);
    }
}
