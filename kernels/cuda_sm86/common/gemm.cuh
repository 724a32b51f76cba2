// ops: linear, many rows, on the tensor cores. y[r, n] = Σₖ x[r, k]·w[n, k]
// (+ bias[n]) with x and w in f16 or bf16, sums in f32.
// `round_*`: x f32 [R, K] to 16-bit [R, K] in the workspace, to nearest even; with two
// planes [R, 2·K], behind each row what the rounding left.
// `gemm_*`: x16 [R, planes·K], w16 [N, K] row-major, K % 8 == 0, y f32 [R, N]. Two
// planes meet the same weights one after the other: x to 16 bits (bf16) or 22 (f16).
// Launch: 8 warps for each tile of 128 rows (y) by 128 columns (x); each warp has 64
// by 32 of it. 64 of K at a time through three stages of shared memory, rows of 128
// bytes, their 16-byte pieces permuted so that ldmatrix meets no bank conflict.
#pragma once
#include "mma.cuh"

struct Round {
    const float* x;
    u16* out;
    const u32* count;
    u32 k, x_stride, planes;
};

template <class S>
DEVICE void round_rows(const Round& p) {
    start_next();
    wait_for_previous();
    u32 i = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
    u32 r = blockIdx.y;
    if (i >= p.k || r >= real_rows(p.count)) return;
    const float* x = p.x + (u64)r * p.x_stride + i;
    u16* out = p.out + (u64)r * p.planes * p.k + i;
    const uint2 high = make_uint2(S::pair(x[0], x[1]), S::pair(x[2], x[3]));
    *(uint2*)out = high;
    if (p.planes == 1) return;
    float h[4];
    S::both(high.x, h);
    S::both(high.y, h + 2);
    *(uint2*)(out + p.k) = make_uint2(S::pair(x[0] - h[0], x[1] - h[1]), S::pair(x[2] - h[2], x[3] - h[3]));
}

struct Gemm {
    const u16* x;
    const u16* w;
    const float* bias;
    float* y;
    const u32* count;
    u32 n, k, y_stride, planes;
};

enum { TILE = 128, DEPTH = 64, STAGES = 3, STAGE_BYTES = TILE * DEPTH * 2 };

// Byte of piece c of row r in a stage.
DEVICE u32 piece_at(u32 r, u32 c) { return r * 128 + ((c ^ (r & 7)) << 4); }

template <class S>
DEVICE void gemm(const Gemm& p) {
    extern __shared__ uint4 shared_pieces[];
    const u32 base = shared_address(shared_pieces);
    start_next();
    wait_for_previous();
    const u32 rows = real_rows(p.count);
    const u32 n0 = blockIdx.x * TILE, r0 = blockIdx.y * TILE;
    if (r0 >= rows) return;
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const u32 wr = warp / 4 * 64, wn = warp % 4 * 32;
    const u32 all = p.planes * p.k, steps = (all + DEPTH - 1) / DEPTH;

    auto fetch = [&](u32 step) {
        if (step < steps) {
            const u32 stage = base + step % STAGES * 2 * STAGE_BYTES;
#pragma unroll
            for (u32 e = threadIdx.x; e < TILE * 8; e += 256) {
                u32 r = e / 8, c = e % 8, k = step * DEPTH + c * 8;
                const u32 of_w = k < p.k ? k : k - p.k;
                bool in_x = k < all && r0 + r < rows, in_w = k < all && n0 + r < p.n;
                copy_async(stage + piece_at(r, c), in_x ? p.x + (u64)(r0 + r) * all + k : p.x, in_x);
                copy_async(stage + STAGE_BYTES + piece_at(r, c), in_w ? p.w + (u64)(n0 + r) * p.k + of_w : p.w, in_w);
            }
        }
        copy_commit();
    };

    float acc[4][4][4] = {};
#pragma unroll
    for (int s = 0; s < STAGES - 1; ++s) fetch(s);
    for (u32 step = 0; step < steps; ++step) {
        copy_wait<STAGES - 2>();
        __syncthreads();
        fetch(step + STAGES - 1);
        const u32 xs = base + step % STAGES * 2 * STAGE_BYTES, ws = xs + STAGE_BYTES;
#pragma unroll
        for (u32 half = 0; half < DEPTH / 16; ++half) {
            u32 a[4][4], b[2][4];
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                ldmatrix4(a[i], xs + piece_at(wr + i * 16 + lane % 16, half * 2 + lane / 16));
            }
#pragma unroll
            for (u32 j = 0; j < 2; ++j) {
                u32 r = wn + j * 16 + lane % 8 + lane / 16 * 8;
                ldmatrix4(b[j], ws + piece_at(r, half * 2 + lane / 8 % 2));
            }
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
#pragma unroll
                for (u32 j = 0; j < 4; ++j) {
                    mma(acc[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1], S());
                }
            }
        }
    }
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
#pragma unroll
        for (u32 j = 0; j < 4; ++j) {
#pragma unroll
            for (u32 e = 0; e < 4; ++e) {
                u32 r = r0 + wr + i * 16 + lane / 4 + e / 2 * 8;
                u32 n = n0 + wn + j * 8 + lane % 4 * 2 + e % 2;
                if (r < rows && n < p.n) {
                    p.y[(u64)r * p.y_stride + n] = acc[i][j][e] + (p.bias ? p.bias[n] : 0.0f);
                }
            }
        }
    }
}
