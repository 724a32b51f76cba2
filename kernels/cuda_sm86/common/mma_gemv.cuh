// ops: linear, linear+linear, linear+linear+linear, linear+linear+silu_mul, few
// rows, block-quantised weights. yᵢ[r, n] = Σₖ f16(x[r, k])·wᵢ[n, k] (+ biasᵢ[n]).
// x f32 [R, K], wᵢ [Nᵢ, K] in layout mma16, biasᵢ f32, yᵢ f32.
// Launch: a block of warps owns 16 columns of one matrix, or of gate and up; its
// warps share K by chunks of 256. The weights are the tensor cores' first operand
// and x, rounded to f16, the second, 8 rows of x at a time, so 8 rows cost what one
// costs. A warp holds its next chunk while it multiplies the present one. Sums of
// one scale's columns leave the tensor core in f32 and are scaled and added in f32,
// chunks in order, then warps in order. Tolerance 1e-4: scaled sums of many columns.
#pragma once
#include "quant.cuh"
#include "stacked.cuh"

struct Args {
    const float* x;
    const u8* w[3];
    const float* bias[3];
    float* y[3];
    const u32* count;
    u32 k, chunks, x_stride, aligned;
    u32 n[3];
    u32 y_stride[3];
};

enum { MOST_WARPS = 8 };

// One row of x, rounded to f16, of the 256 columns that a warp multiplies next: all
// lanes fetch them at once, which is what a lone row's latency wants.
DEVICE void round_slice(u16* slice, const Args& p, u32 k0) {
    const u32 k = k0 + (threadIdx.x & 31) * 8;
    uint4 h = make_uint4(0, 0, 0, 0);
    const float* x = p.x + k;
    if (k >= p.k) {
        // Behind the last column.
    } else if (p.aligned) {
        float4 u = *(const float4*)x, v = *(const float4*)(x + 4);
        h = make_uint4(to_f16x2(u.x, u.y), to_f16x2(u.z, u.w), to_f16x2(v.x, v.y), to_f16x2(v.z, v.w));
    } else {
        h = make_uint4(to_f16x2(x[0], x[1]), to_f16x2(x[2], x[3]), to_f16x2(x[4], x[5]), to_f16x2(x[6], x[7]));
    }
    *(uint4*)(slice + (threadIdx.x & 31) * 8) = h;
}

// Lane 4g + t's share of 32 columns of x's row g: 8 numbers from 8t on, or, where 16
// columns share a scale, 4 from 4t and 4 from 16 + 4t.
template <int SUB>
DEVICE void load_rounded(u32 (&b)[4], const u16* x, bool there, u32 t) {
    b[0] = b[1] = b[2] = b[3] = 0;
    if (!there) return;
    uint2 u = *(const uint2*)(x + (SUB == 32 ? 8 * t : 4 * t));
    uint2 v = *(const uint2*)(x + (SUB == 32 ? 8 * t + 4 : 16 + 4 * t));
    b[0] = u.x;
    b[1] = u.y;
    b[2] = v.x;
    b[3] = v.y;
}

// The same of x in f32.
template <int SUB>
DEVICE void load_x(u32 (&b)[4], const float* x, bool there, bool aligned, u32 t) {
    b[0] = b[1] = b[2] = b[3] = 0;
    if (!there) return;
    const float* lo = x + (SUB == 32 ? 8 * t : 4 * t);
    const float* hi = x + (SUB == 32 ? 8 * t + 4 : 16 + 4 * t);
    if (aligned) {
        float4 u = *(const float4*)lo, v = *(const float4*)hi;
        b[0] = to_f16x2(u.x, u.y);
        b[1] = to_f16x2(u.z, u.w);
        b[2] = to_f16x2(v.x, v.y);
        b[3] = to_f16x2(v.z, v.w);
    } else {
        b[0] = to_f16x2(lo[0], lo[1]);
        b[1] = to_f16x2(lo[2], lo[3]);
        b[2] = to_f16x2(hi[0], hi[1]);
        b[3] = to_f16x2(hi[2], hi[3]);
    }
}

// ONE: a single row of x, through `slice`.
template <class Q, int NT, bool ONE>
DEVICE void multiply(float (&acc)[NT][4], const typename Q::Raw& raw, const Args& p, u16* slice,
                     u32 r0, u32 rows, u32 k0) {
    const u32 lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const u32 ones[4] = {0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u};
    if (ONE) {
        __syncwarp();
        round_slice(slice, p, k0);
        __syncwarp();
    }
#pragma unroll
    for (int tile = 0; tile < 4; ++tile) {
#pragma unroll
        for (int blk = 0; blk < 2; ++blk) {
            const u32 column = tile * 64 + blk * 32;
            // Behind the last column the weights are padding.
            if (k0 + column >= p.k) return;
            u32 a[2][4];
            Q::step(raw, tile, blk * 2, a[0]);
            Q::step(raw, tile, blk * 2 + 1, a[1]);
            float s[2][2], m[2][2];
            if (Q::SUB == 32) {
                Q::scales(raw, tile, blk, s[0], m[0]);
            } else {
                Q::scales(raw, tile, blk * 2, s[0], m[0]);
                Q::scales(raw, tile, blk * 2 + 1, s[1], m[1]);
            }
#pragma unroll
            for (int j = 0; j < NT; ++j) {
                u32 b[4];
                if (ONE) {
                    load_rounded<Q::SUB>(b, slice + column, g == 0, t);
                } else {
                    const u32 r = r0 + 8 * j + g;
                    const float* x = p.x + (u64)min(r, rows - 1) * p.x_stride + k0 + column;
                    load_x<Q::SUB>(b, x, r < rows, p.aligned != 0, t);
                }
                float c[4] = {};
                mma(c, a[0], b[0], b[1], f16_t());
                if (Q::SUB == 16) {
                    acc[j][0] = fmaf(s[0][0], c[0], acc[j][0]);
                    acc[j][1] = fmaf(s[0][0], c[1], acc[j][1]);
                    acc[j][2] = fmaf(s[0][1], c[2], acc[j][2]);
                    acc[j][3] = fmaf(s[0][1], c[3], acc[j][3]);
                    c[0] = c[1] = c[2] = c[3] = 0.0f;
                }
                mma(c, a[1], b[2], b[3], f16_t());
                const int last = Q::SUB == 16 ? 1 : 0;
                acc[j][0] = fmaf(s[last][0], c[0], acc[j][0]);
                acc[j][1] = fmaf(s[last][0], c[1], acc[j][1]);
                acc[j][2] = fmaf(s[last][1], c[2], acc[j][2]);
                acc[j][3] = fmaf(s[last][1], c[3], acc[j][3]);
                if (Q::MINS) {
                    // The sums of x itself, where the lanes need them.
                    float e[4] = {};
                    mma(e, ones, b[0], b[1], f16_t());
                    mma(e, ones, b[2], b[3], f16_t());
                    acc[j][0] = fmaf(-m[0][0], e[0], acc[j][0]);
                    acc[j][1] = fmaf(-m[0][0], e[1], acc[j][1]);
                    acc[j][2] = fmaf(-m[0][1], e[0], acc[j][2]);
                    acc[j][3] = fmaf(-m[0][1], e[1], acc[j][3]);
                }
            }
        }
    }
}

// One tile of 16 columns of y by 8·NT rows over this warp's chunks.
template <class Q, int NT, bool ONE>
DEVICE void sweep(float (&acc)[NT][4], const u8* w, const Args& p, u32 r0, u32 rows, u32 first, u32 stride) {
    __shared__ __align__(16) u16 slices[ONE ? MOST_WARPS : 1][256];
    u16* slice = slices[ONE ? threadIdx.x >> 5 : 0];
    const u32 lane = threadIdx.x & 31;
#pragma unroll
    for (int j = 0; j < NT; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[j][i] = 0.0f;
    }
    if (first >= p.chunks) return;
    typename Q::Raw raw;
    Q::load(raw, w + (u64)first * Q::CHUNK, lane);
    for (u32 c = first; c < p.chunks; c += stride) {
        typename Q::Raw next;
        const u32 ahead = min(c + stride, p.chunks - 1);
        Q::load(next, w + (u64)ahead * Q::CHUNK, lane);
        multiply<Q, NT, ONE>(acc, raw, p, slice, r0, rows, c * 256);
        raw = next;
    }
}

// The matrix of this block and its tile of 16 columns.
DEVICE u32 matrix_of(const Args& p, u32& tile) {
    u32 m = 0;
    tile = blockIdx.x;
    while (m < 2 && tile >= (p.n[m] + 15) / 16) {
        tile -= (p.n[m] + 15) / 16;
        ++m;
    }
    return m;
}

template <class Q, int NT, bool GATED, bool ONE>
DEVICE void mma_gemv(const Args& p, u32 m, u32 tile) {
    __shared__ float parts[MOST_WARPS][16][8 * NT + 1];
    const u32 rows = real_rows(p.count);
    const u32 warp = threadIdx.x >> 5, warps = blockDim.x >> 5, lane = threadIdx.x & 31;
    // Of gate and up each half of the warps takes one.
    const u32 sharing = GATED ? warps / 2 : warps;
    const u32 which = GATED ? warp / sharing : m;
    const u8* w = p.w[which] + (u64)tile * p.chunks * Q::CHUNK;
    for (u32 r0 = 0; r0 < rows; r0 += 8 * NT) {
        float acc[NT][4];
        sweep<Q, NT, ONE>(acc, w, p, r0, rows, warp % sharing, sharing);
        __syncthreads();
#pragma unroll
        for (int j = 0; j < NT; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                parts[warp][(lane >> 2) + i / 2 * 8][j * 8 + (lane & 3) * 2 + i % 2] = acc[j][i];
            }
        }
        __syncthreads();
        for (u32 e = threadIdx.x; e < 16 * 8 * NT; e += blockDim.x) {
            const u32 row = r0 + e / 16, col = tile * 16 + e % 16;
            if (row >= rows || col >= p.n[m]) continue;
            float sum = 0.0f;
            for (u32 i = 0; i < sharing; ++i) sum += parts[i][e % 16][e / 16];
            if (p.bias[m]) sum += p.bias[m][col];
            if (GATED) {
                float up = 0.0f;
                for (u32 i = sharing; i < warps; ++i) up += parts[i][e % 16][e / 16];
                if (p.bias[1]) up += p.bias[1][col];
                sum = silu(sum) * up;
            }
            p.y[m][(u64)row * p.y_stride[m] + col] = sum;
        }
    }
}

template <class Q, int NT, bool ONE>
DEVICE void one_scheme(const Args& p) {
    u32 tile;
    u32 m = matrix_of(p, tile);
    mma_gemv<Q, NT, false, ONE>(p, m, tile);
}

// The last of three matrices in another scheme.
template <class Q, class LAST, bool ONE>
DEVICE void two_schemes(const Args& p) {
    u32 tile;
    u32 m = matrix_of(p, tile);
    if (m < 2) {
        mma_gemv<Q, 1, false, ONE>(p, m, tile);
    } else {
        mma_gemv<LAST, 1, false, ONE>(p, m, tile);
    }
}

// Launch: x over tiles of 16 columns, y over (row, part).
template <class Q>
DEVICE void stacked(const Stacked& s) {
    __shared__ float parts[MOST_WARPS][16];
    u32 e;
    const float* x;
    float* y;
    if (!stacked_part(s, e, x, y)) return;
    Args p = {};
    p.x = x;
    p.k = s.k;
    p.chunks = s.chunks;
    p.aligned = s.aligned;
    const u32 warp = threadIdx.x >> 5, warps = blockDim.x >> 5, lane = threadIdx.x & 31;
    const u8* w = (const u8*)s.w + (u64)(e * (s.n / 16) + blockIdx.x) * s.chunks * Q::CHUNK;
    float acc[1][4];
    sweep<Q, 1, true>(acc, w, p, 0, 1, warp, warps);
    if ((lane & 3) == 0) {
        parts[warp][lane >> 2] = acc[0][0];
        parts[warp][(lane >> 2) + 8] = acc[0][2];
    }
    __syncthreads();
    if (threadIdx.x < 16) {
        const u32 col = blockIdx.x * 16 + threadIdx.x;
        float sum = 0.0f;
        for (u32 i = 0; i < warps; ++i) sum += parts[i][threadIdx.x];
        if (s.bias) sum += s.bias[(u64)e * s.n + col];
        y[col] = sum;
    }
}

#define BOUNDS KERNEL __launch_bounds__(256)
#define ENTRY(Q, NAME, NT, ONE)                                                              \
    BOUNDS gemv_##Q##_##NAME(const __grid_constant__ Args p) { one_scheme<Q##_t, NT, ONE>(p); } \
    BOUNDS gated_##Q##_##NAME(const __grid_constant__ Args p) {                              \
        mma_gemv<Q##_t, NT, true, ONE>(p, 0, blockIdx.x);                                    \
    }
// One row, up to 8, 16 and 32 at a time.
#define ENTRIES(Q)                                                                        \
    ENTRY(Q, 0, 1, true) ENTRY(Q, 1, 1, false) ENTRY(Q, 2, 2, false) ENTRY(Q, 4, 4, false) \
    BOUNDS stacked_##Q(const __grid_constant__ Stacked p) { stacked<Q##_t>(p); }
#define MIXED_ENTRY(Q, L, NAME, ONE) \
    BOUNDS gemv_##Q##_##L##_##NAME(const __grid_constant__ Args p) { two_schemes<Q##_t, L##_t, ONE>(p); }
#define MIXED(Q, L) MIXED_ENTRY(Q, L, 0, true) MIXED_ENTRY(Q, L, 1, false)
