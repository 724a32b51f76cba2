// Many rows times the matrices of the experts that each chose, block-quantised; also
// gate and up with SiLU. y[t, j] = wₑ·f16(x[t]) (+ biasₑ), e = chosen[t, j].
// Pairs are brought in order of their experts first, see `sorted_pairs.cuh`.
// `grouped_*`: as many blocks of 8 warps as there are multiprocessors walk over tiles of
// 64 pairs by 256 columns (128 of gate and as many of up); a warp has all pairs by 32
// columns. x comes through three stages of shared memory, see `mma_gemm.cuh`, whose
// products these are. A pair's sums depend on nothing but its own row, so they are the
// same wherever it stands. Tolerance 1e-4.
#pragma once
#include "mma_gemm.cuh"
#include "sorted_pairs.cuh"

struct RoundParts {
    const float* x;
    u16* out;
    u16* sums;
    const u32* count;
    u32 k, x_stride, x_part, parts, chunks, aligned;
};

// `round_rows` of x f32 [T, parts, K].
KERNEL round_parts(const RoundParts p) {
    start_next();
    wait_for_previous();
    const u32 lane = threadIdx.x & 31, chunk = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    const u32 r = blockIdx.y, i = chunk * 256 + lane * 8;
    if (chunk >= p.chunks || r / p.parts >= real_rows(p.count)) return;
    float v[8] = {};
    if (i < p.k) load8(v, p.x + (u64)(r / p.parts) * p.x_stride + r % p.parts * p.x_part + i, p.aligned != 0);
    const uint4 h = rounded8(v);
    *(uint4*)(p.out + ((u64)r * p.chunks + chunk) * 256 + lane * 8) = h;
    const float e = quad_sum(sum8(h));
    if ((lane & 3) == 0) {
        u16* to = p.sums + ((u64)r * p.chunks + chunk) * 16 + lane / 4;
        const u16 high = to_f16(e * 0.125f);
        to[0] = high;
        to[8] = to_f16(fmaf(e, 0.125f, -from_f16(high)));
    }
}

struct Grouped {
    const u16* x;
    const u16* sums;
    const u8* w;
    const u8* up;
    const float* bias;
    const float* up_bias;
    float* y;
    const u32* starts;
    const u32* pairs;
    // `x_parts`: whether each part of a row has an x of its own.
    u32 k, chunks, n, stack, parts, x_parts, y_stride, gated, tiles;
};

DEVICE float quick_silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

enum { GROUP_STAGE = GROUP * 128, GROUP_SUMS = GROUP * 32 };

template <class Q>
DEVICE void grouped(const Grouped& p) {
    extern __shared__ __align__(16) u8 shared_bytes[];
    __shared__ u32 before[MOST_EXPERTS + 1], parts[32];
    start_next();
    wait_for_previous();
    count_tiles<256>(p.starts, p.stack, before, parts);
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    const u32 steps = (p.k + 63) / 64, all = before[MOST_EXPERTS] * p.tiles, panels = (p.stack * p.n + 15) / 16;
    const u32 base = shared_address(shared_bytes);
    const u8* sums = shared_bytes + STAGES * GROUP_STAGE;
    for (u32 item = blockIdx.x; item < all; item += gridDim.x) {
        const u32 rows = item / p.tiles;
        const u32 e = expert_of(before, rows);
        const u32 r0 = p.starts[e] + (rows - before[e]) * GROUP, have = min(p.starts[e + 1] - r0, (u32)GROUP);
        // The warp's two tiles of 16 columns.
        const u32 panel = e * p.n / 16 + item % p.tiles * (p.gated ? 8 : 16);
        u32 tile[2];
        const u8* w[2];
#pragma unroll
        for (u32 i = 0; i < 2; ++i) {
            tile[i] = panel + (p.gated ? warp : warp * 2 + i);
            w[i] = (p.gated && i ? p.up : p.w) + (u64)min(tile[i], panels - 1) * p.chunks * Q::CHUNK;
        }
        // Rows of x that the thread fetches.
        const u16* from[2];
        bool in[2];
#pragma unroll
        for (u32 i = 0; i < 2; ++i) {
            const u32 r = threadIdx.x / 8 + 32 * i;
            in[i] = r < have;
            const u32 pair = p.pairs[r0 + min(r, have - 1)];
            from[i] = p.x + (u64)(p.x_parts ? pair : pair / p.parts) * p.chunks * 256 + threadIdx.x % 8 * 8;
        }
        const u32 of_sums = threadIdx.x / 2 % GROUP;
        const bool has_sums = Q::MINS && threadIdx.x < 2 * GROUP && of_sums < have;
        const u32 sums_pair = p.pairs[r0 + min(of_sums, have - 1)];
        const u16* sums_from = p.sums + (u64)(p.x_parts ? sums_pair : sums_pair / p.parts) * p.chunks * 16 + threadIdx.x % 2 * 8;
        auto fetch = [&](u32 step) {
            if (step < steps) {
                const u32 to = base + step % STAGES * GROUP_STAGE;
#pragma unroll
                for (u32 i = 0; i < 2; ++i) {
                    copy_async(to + piece_of<Q::SUB>(threadIdx.x / 8 + 32 * i, threadIdx.x % 8), from[i] + step * 64, in[i]);
                }
                if (Q::MINS && step % 4 == 0 && threadIdx.x < 2 * GROUP) {
                    const u32 to = base + STAGES * GROUP_STAGE + (step / 4 & 1) * GROUP_SUMS + threadIdx.x * 16;
                    copy_async(to, sums_from + step / 4 * 16, has_sums);
                }
            }
            copy_commit();
        };
        float acc[2][8][4] = {};
#pragma unroll
        for (u32 s = 0; s < STAGES - 1; ++s) fetch(s);
        typename Q::Bits bits[2];
        typename Q::Side side[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            Q::load_bits(bits[i], w[i], 0, lane);
            Q::load_side(side[i], w[i], 0, g);
        }
        for (u32 step = 0; step < steps; ++step) {
            // Weights of the next step, minima of this chunk.
            typename Q::Bits bits_next[2];
            typename Q::Side side_next[2], own[2];
            const u32 ahead = min(step + 1, steps - 1);
            const bool ends = step % 4 == 3 || step + 1 == steps;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                Q::load_bits(bits_next[i], w[i] + (u64)(ahead / 4) * Q::CHUNK, ahead % 4, lane);
                Q::load_side(side_next[i], w[i] + (u64)(ahead / 4) * Q::CHUNK, ahead % 4, g);
                if (Q::MINS && ends) Q::load_side(own[i], w[i] + (u64)(step / 4) * Q::CHUNK, t, g);
            }
            copy_wait<STAGES - 2>();
            __syncthreads();
            fetch(step + STAGES - 1);
            multiply_step<Q>(acc, bits, side, shared_bytes + step % STAGES * GROUP_STAGE, 0, g, t);
            if constexpr (Q::MINS) {
                if (ends) subtract_minima<Q>(acc, own, sums + (step / 4 & 1) * GROUP_SUMS, 0, g, t);
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                bits[i] = bits_next[i];
                side[i] = side_next[i];
            }
        }
        // Of each column the row of the stack; others are the neighbours'.
        const u32 first = e * p.n, last = first + p.n;
#pragma unroll
        for (u32 j = 0; j < 8; ++j) {
#pragma unroll
            for (u32 h = 0; h < 2; ++h) {
                const u32 r = j * 8 + t * 2 + h;
                if (r >= have) continue;
                const u32 pair = p.pairs[r0 + r];
                float* y = p.y + (u64)(pair / p.parts) * p.y_stride + (u64)(pair % p.parts) * p.n;
#pragma unroll
                for (u32 i = 0; i < 2; ++i) {
#pragma unroll
                    for (u32 b = 0; b < 2; ++b) {
                        const u32 n = tile[i] * 16 + g + b * 8;
                        if (n < first || n >= last || (p.gated && i)) continue;
                        float v = acc[i][j][b * 2 + h];
                        if (p.bias) v += p.bias[n];
                        if (p.gated) v = quick_silu(v) * (acc[1][j][b * 2 + h] + (p.up_bias ? p.up_bias[n] : 0.0f));
                        y[n - first] = v;
                    }
                }
            }
        }
        // Nobody fetches over what another still reads.
        __syncthreads();
    }
}

#undef ENTRIES
#define ENTRIES(Q) \
    KERNEL __launch_bounds__(256) grouped_##Q(const __grid_constant__ Grouped p) { grouped<Q##_t>(p); }
