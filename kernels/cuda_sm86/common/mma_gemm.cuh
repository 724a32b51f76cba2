// Many rows of x times block-quantised weights on the tensor cores; the ops of
// `mma_gemv.cuh`. yᵢ[r, n] = Σₖ f16(x[r, k])·wᵢ[n, k] (+ biasᵢ[n]), gate and up, an
// add behind. See `rounded.cuh` for x.
// Launch: 8 warps for each tile of 128 rows (y) by 128 columns, or 64 of gate and up
// (x); a warp has 64 rows by 32 columns. Weights go from memory to registers as
// fragments; x comes through three stages of shared memory of 64 columns, its 16-byte
// pieces permuted so that no two lanes meet in a bank. No weight is rounded: whole
// scales are folded into f16 integers below 2048 and the chunk's factor is applied to
// sums in f32; other scales are applied to the sums of their columns. Minima meet the
// sums of 32 columns of x, each an f16 and what it left, in one product a chunk.
// Tolerance 1e-4.
#pragma once
#include "rounded.cuh"

enum { ROWS = 128, STAGES = 3, STAGE = ROWS * 128, SUMS = ROWS * 32 };

// Byte of the 16-byte piece c of row r in a stage.
template <int SUB>
DEVICE u32 piece_of(u32 r, u32 c) {
    return r * 128 + ((c ^ (SUB == 32 ? (r & 1) << 2 : (r & 3) << 1)) << 4);
}

// Eight rows of x at a time times tiles whose scales are in the fragments: the chunk's
// factors alone are left.
template <class Q>
DEVICE void times_whole(float (&acc)[2][8][4], const u32 (&a)[2][4][4], const float (&s)[2][2][2][2], const u8* xs, u32 wr, u32 g, u32 t) {
#pragma unroll
    for (u32 j = 0; j < 8; ++j) {
        const u32 r = wr + j * 8 + g;
        const uint4 u = *(const uint4*)(xs + piece_of<32>(r, t)), v = *(const uint4*)(xs + piece_of<32>(r, 4 + t));
        const u32 b[4][2] = {{u.x, u.y}, {u.z, u.w}, {v.x, v.y}, {v.z, v.w}};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float c[4] = {};
#pragma unroll
            for (int h = 0; h < 4; ++h) mma(c, a[i][h], b[h][0], b[h][1], f16_t());
#pragma unroll
            for (int e = 0; e < 4; ++e) acc[i][j][e] = fmaf(s[i][0][0][e / 2], c[e], acc[i][j][e]);
        }
    }
}

// The same where sums have scales: two groups of 8 rows at a time make four chains of
// products, so that none waits.
template <class Q>
DEVICE void times_scaled(float (&acc)[2][8][4], const u32 (&a)[2][4][4], const float (&s)[2][2][2][2], const u8* xs, u32 wr, u32 g, u32 t) {
#pragma unroll
    for (u32 pair = 0; pair < 4; ++pair) {
        u32 b[2][4][2];
#pragma unroll
        for (u32 q = 0; q < 2; ++q) {
            const u32 r = wr + (pair * 2 + q) * 8 + g;
#pragma unroll
            for (u32 h = 0; h < 4; ++h) {
                if (Q::SUB == 16) {
                    const uint2 v = *(const uint2*)(xs + piece_of<16>(r, h * 2 + t / 2) + t % 2 * 8);
                    b[q][h][0] = v.x;
                    b[q][h][1] = v.y;
                } else if (h % 2 == 0) {
                    const uint4 v = *(const uint4*)(xs + piece_of<32>(r, h * 2 + t));
                    b[q][h][0] = v.x;
                    b[q][h][1] = v.y;
                    b[q][h + 1][0] = v.z;
                    b[q][h + 1][1] = v.w;
                }
            }
        }
        float c[2][2][4];
#pragma unroll
        for (int h = 0; h < 4; ++h) {
            // Sums start anew where the scale changes.
            const int run = Q::SUB / 16;
            if (h % run == 0) {
#pragma unroll
                for (int e = 0; e < 16; ++e) c[e / 8][e / 4 % 2][e % 4] = 0.0f;
            }
#pragma unroll
            for (int q = 0; q < 2; ++q) {
#pragma unroll
                for (int i = 0; i < 2; ++i) mma(c[q][i], a[i][h], b[q][h][0], b[q][h][1], f16_t());
            }
            if (h % run != run - 1) continue;
#pragma unroll
            for (int q = 0; q < 2; ++q) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        const float scale = s[i][Q::SUB == 16 ? h / 2 : 0][e / 2][Q::SUB == 16 ? h % 2 : h / 2];
                        acc[i][pair * 2 + q][e] = fmaf(scale, c[q][i][e], acc[i][pair * 2 + q][e]);
                    }
                }
            }
        }
    }
}

// 64 columns of x, 8 rows at a time, times the warp's tiles.
template <class Q>
DEVICE void multiply_step(float (&acc)[2][8][4], const typename Q::Bits (&bits)[2],
                          const typename Q::Side (&side)[2], const u8* xs, u32 wr, u32 g, u32 t) {
    u32 a[2][4][4];
    float s[2][2][2][2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        if constexpr (Q::WHOLE) {
            u32 c[2][4];
            whole_scales(side[i].s, 0, c[0]);
            whole_scales(side[i].s, 1, c[1]);
#pragma unroll
            for (int j = 0; j < 4; ++j) Q::scaled_word(bits[i], j, c[j / 2], a[i][j]);
            float minima[2];
            Q::factors(side[i], s[i][0][0], minima);
        } else {
#pragma unroll
            for (int j = 0; j < 4; ++j) Q::plain_word(bits[i], j, a[i][j]);
            Q::pair(side[i], 0, s[i][0][0], s[i][0][1]);
            if (Q::SUB == 16) Q::pair(side[i], 1, s[i][1][0], s[i][1][1]);
        }
    }
    if constexpr (Q::WHOLE) {
        times_whole<Q>(acc, a, s, xs, wr, g, t);
    } else {
        times_scaled<Q>(acc, a, s, xs, wr, g, t);
    }
}

// What the minima of a chunk take away.
template <class Q>
DEVICE void subtract_minima(float (&acc)[2][8][4], const typename Q::Side (&own)[2], const u8* sums, u32 wr, u32 g, u32 t) {
    u32 a[2][4];
    float m[2][2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        float d[2];
        whole_mins(own[i].s, a[i]);
        Q::factors(own[i], d, m[i]);
    }
#pragma unroll
    for (u32 j = 0; j < 8; ++j) {
        const u32* e = (const u32*)(sums + (wr + j * 8 + g) * 32);
        const u32 high = e[t], low = e[4 + t];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float c[4] = {};
            mma(c, a[i], high, low, f16_t());
#pragma unroll
            for (int k = 0; k < 4; ++k) acc[i][j][k] = fmaf(-8.0f * m[i][k / 2], c[k], acc[i][j][k]);
        }
    }
}

template <class Q, bool GATED>
DEVICE void mma_gemm(const RoundedArgs& p) {
    extern __shared__ __align__(16) u8 shared_bytes[];
    start_next();
    wait_for_previous();
    const u32 rows = real_rows(p.count), r0 = blockIdx.y * ROWS;
    if (r0 >= rows) return;
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    const u32 wn = warp % 4, wr = warp / 4 * 64;
    u32 block = blockIdx.x;
    const u32 m = GATED ? 0 : matrix_of(p.n, block, 128);
    // The warp's two tiles of 16 columns.
    u32 tile[2];
    const u8* w[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        tile[i] = GATED ? block * 4 + wn : (block * 4 + wn) * 2 + i;
        const u32 which = GATED ? i : m;
        w[i] = p.w[which] + (u64)min(tile[i], (p.n[which] + 15) / 16 - 1) * p.chunks * Q::CHUNK;
    }
    const u32 steps = (p.k + 63) / 64;
    const u32 base = shared_address(shared_bytes);
    const u8* sums = shared_bytes + STAGES * STAGE;
    auto fetch = [&](u32 step) {
        if (step < steps) {
            const u32 to = base + step % STAGES * STAGE;
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                const u32 e = threadIdx.x + i * 256, r = e / 8, c = e % 8;
                const bool in = r0 + r < rows;
                copy_async(to + piece_of<Q::SUB>(r, c), in ? p.x + (u64)(r0 + r) * p.chunks * 256 + step * 64 + c * 8 : p.x, in);
            }
            if (Q::MINS && step % 4 == 0) {
                const u32 r = threadIdx.x / 2, c = threadIdx.x % 2;
                const bool in = r0 + r < rows;
                const u32 at = base + STAGES * STAGE + (step / 4 & 1) * SUMS + threadIdx.x * 16;
                copy_async(at, in ? p.sums + ((u64)(r0 + r) * p.chunks + step / 4) * 16 + c * 8 : p.sums, in);
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
        const u32 part = step % 4;
        // Weights of the next step, minima of this chunk.
        typename Q::Bits bits_next[2];
        typename Q::Side side_next[2], own[2];
        const u32 ahead = min(step + 1, steps - 1);
        const bool ends = part == 3 || step + 1 == steps;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            Q::load_bits(bits_next[i], w[i] + (u64)(ahead / 4) * Q::CHUNK, ahead % 4, lane);
            Q::load_side(side_next[i], w[i] + (u64)(ahead / 4) * Q::CHUNK, ahead % 4, g);
            if (Q::MINS && ends) Q::load_side(own[i], w[i] + (u64)(step / 4) * Q::CHUNK, t, g);
        }
        copy_wait<STAGES - 2>();
        __syncthreads();
        fetch(step + STAGES - 1);
        const u8* xs = shared_bytes + step % STAGES * STAGE;
        multiply_step<Q>(acc, bits, side, xs, wr, g, t);
        if constexpr (Q::MINS) {
            if (ends) subtract_minima<Q>(acc, own, sums + (step / 4 & 1) * SUMS, wr, g, t);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            bits[i] = bits_next[i];
            side[i] = side_next[i];
        }
    }
#pragma unroll
    for (u32 j = 0; j < 8; ++j) {
#pragma unroll
        for (u32 e = 0; e < 4; ++e) {
            const u32 r = r0 + wr + j * 8 + t * 2 + e % 2;
            if (r >= rows) continue;
#pragma unroll
            for (int i = 0; i < (GATED ? 1 : 2); ++i) {
                const u32 n = tile[i] * 16 + g + e / 2 * 8;
                if (n >= p.n[m]) continue;
                float v = acc[i][j][e] + (p.bias[m] ? p.bias[m][n] : 0.0f);
                if (GATED) v = silu(v) * (acc[1][j][e] + (p.bias[1] ? p.bias[1][n] : 0.0f));
                if (p.add) v += p.add[(u64)r * p.add_stride + n];
                p.y[m][(u64)r * p.y_stride[m] + n] = v;
            }
        }
    }
}

#define ENTRIES(Q)                                                                                             \
    KERNEL __launch_bounds__(256) gemm_##Q(const __grid_constant__ RoundedArgs p) { mma_gemm<Q##_t, false>(p); }  \
    KERNEL __launch_bounds__(256) gated_##Q(const __grid_constant__ RoundedArgs p) { mma_gemm<Q##_t, true>(p); }
