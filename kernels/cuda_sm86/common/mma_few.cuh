// Some rows of x times block-quantised weights; the ops of `mma_gemv.cuh`.
// Launch: a block of warps owns 16 columns of one matrix, or of gate and up; its warps
// share K by chunks of 256. The weights are the tensor core's first operand and x,
// which `round_rows` has made f16, the second, 8 rows at a time, straight from the
// cache. A warp holds its next chunk while it multiplies the present one. Scales are
// applied as in `mma_gemm.cuh`; chunks are added in order, then warps in order.
#pragma once
#include "rounded.cuh"

template <class Q>
struct Whole {
    typename Q::Bits bits[4];
    typename Q::Side side[4];
};

template <class Q>
DEVICE void load_whole(Whole<Q>& c, const u8* at) {
    const u32 lane = threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        Q::load_bits(c.bits[i], at, i, lane);
        Q::load_side(c.side[i], at, i, lane >> 2);
    }
}

// The minima of blocks 2t and 2t + 1 against the sums of x.
template <class Q, int NT>
DEVICE void less_minima(float (&acc)[NT][4], const Whole<Q>& own, const u16* sums, u32 tiles, u32 rows, u32 chunks) {
    const u32 lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    uint2 s = own.side[0].s;
#pragma unroll
    for (u32 i = 1; i < 4; ++i) {
        if (t == i) s = own.side[i].s;
    }
    u32 a[4];
    whole_mins(s, a);
    float d[2], m[2];
    Q::factors(own.side[0], d, m);
#pragma unroll
    for (u32 j = 0; j < NT; ++j) {
        if (j >= tiles) continue;
        const u32* e = (const u32*)(sums + (u64)min(8 * j + g, rows - 1) * chunks * 16);
        float c[4] = {};
        mma(c, a, e[t], e[4 + t], f16_t());
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[j][i] = fmaf(-8.0f * m[i / 2], c[i], acc[j][i]);
    }
}

// A chunk's numbers in 16 columns of y times x [rows, chunks·256] from its chunk on.
template <class Q, int NT>
DEVICE void multiply(float (&acc)[NT][4], const Whole<Q>& own, const u16* x, u32 tiles, u32 rows, u32 chunks) {
    const u32 lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const u32 PER = Q::SUB == 32 ? 2 : 4;
    float whole[NT][4] = {};
#pragma unroll
    for (u32 i = 0; i < 4 * PER; ++i) {
        const u32 tile = i / PER, sub = i % PER;
        u32 a[2][4];
        float s[2], r[2];
        if constexpr (Q::WHOLE) {
            u32 c[4];
            whole_scales(own.side[tile].s, sub, c);
            Q::scaled_word(own.bits[tile], 2 * sub, c, a[0]);
            Q::scaled_word(own.bits[tile], 2 * sub + 1, c, a[1]);
        } else if (Q::SUB == 32) {
            Q::plain_word(own.bits[tile], 2 * sub, a[0]);
            Q::plain_word(own.bits[tile], 2 * sub + 1, a[1]);
            Q::pair(own.side[tile], 0, s, r);
        } else {
            Q::plain_word(own.bits[tile], sub, a[0]);
            Q::pair(own.side[tile], sub / 2, s, r);
        }
#pragma unroll
        for (u32 j = 0; j < NT; ++j) {
            if (j >= tiles) continue;
            const u16* from = x + (u64)min(8 * j + g, rows - 1) * chunks * 256 + i * Q::SUB + t * (Q::SUB / 4);
            float c[4] = {};
            if constexpr (Q::SUB == 32) {
                const uint4 b = *(const uint4*)from;
                if constexpr (Q::WHOLE) {
                    mma(whole[j], a[0], b.x, b.y, f16_t());
                    mma(whole[j], a[1], b.z, b.w, f16_t());
                } else {
                    mma(c, a[0], b.x, b.y, f16_t());
                    mma(c, a[1], b.z, b.w, f16_t());
                }
            } else {
                const uint2 b = *(const uint2*)from;
                mma(c, a[0], b.x, b.y, f16_t());
            }
            if constexpr (!Q::WHOLE) {
#pragma unroll
                for (int e = 0; e < 4; ++e) acc[j][e] = fmaf(e < 2 ? s[sub % 2] : r[sub % 2], c[e], acc[j][e]);
            }
        }
    }
    if constexpr (Q::WHOLE) {
        float d[2], m[2];
        Q::factors(own.side[0], d, m);
#pragma unroll
        for (u32 j = 0; j < NT; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) acc[j][e] = fmaf(d[e / 2], whole[j][e], acc[j][e]);
        }
    }
}

// A warp's chunks of a tile.
template <class S, int NT>
DEVICE void sweep(float (&acc)[NT][4], const RoundedArgs& p, const u8* w, u32 first, u32 stride) {
    Whole<S> own;
    load_whole(own, w + (u64)min(first, p.chunks - 1) * S::CHUNK);
    wait_for_previous();
    start_next();
    const u32 rows = real_rows(p.count), tiles = (rows + 7) / 8;
#pragma unroll
    for (int j = 0; j < NT; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[j][i] = 0.0f;
    }
    for (u32 c = first; c < p.chunks && rows; c += stride) {
        Whole<S> next;
        load_whole(next, w + (u64)min(c + stride, p.chunks - 1) * S::CHUNK);
        multiply<S, NT>(acc, own, p.x + c * 256, tiles, rows, p.chunks);
        if constexpr (S::MINS) less_minima<S, NT>(acc, own, p.sums + c * 16, tiles, rows, p.chunks);
        own = next;
    }
}

// LAST: the scheme of the third matrix. Up to 8·NT rows.
template <class Q, class LAST, int NT, bool GATED>
DEVICE void few(const RoundedArgs& p) {
    __shared__ float parts[MOST_WARPS][16][8 * NT + 1];
    const u32 warp = threadIdx.x >> 5, warps = blockDim.x >> 5, lane = threadIdx.x & 31;
    u32 m = 0, tile = blockIdx.x;
    while (!GATED && m < 2 && tile >= (p.n[m] + 15) / 16) {
        tile -= (p.n[m] + 15) / 16;
        ++m;
    }
    // Of gate and up each half of the warps takes one.
    const u32 sharing = GATED ? warps / 2 : warps;
    const bool last = !same<Q, LAST>::yes && m == 2;
    const u8* w = p.w[GATED ? warp / sharing : m] + (u64)tile * p.chunks * (last ? LAST::CHUNK : Q::CHUNK);
    float acc[NT][4];
    if constexpr (same<Q, LAST>::yes) {
        sweep<Q, NT>(acc, p, w, warp % sharing, sharing);
    } else if (last) {
        sweep<LAST, NT>(acc, p, w, warp % sharing, sharing);
    } else {
        sweep<Q, NT>(acc, p, w, warp % sharing, sharing);
    }
#pragma unroll
    for (int j = 0; j < NT; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) parts[warp][(lane >> 2) + i / 2 * 8][j * 8 + (lane & 3) * 2 + i % 2] = acc[j][i];
    }
    __syncthreads();
    const u32 rows = min(real_rows(p.count), 8 * NT);
    for (u32 e = threadIdx.x; e < 16 * rows; e += blockDim.x) {
        const u32 row = e / 16, col = tile * 16 + e % 16;
        if (col >= p.n[m]) continue;
        float sum = 0.0f;
        for (u32 i = 0; i < sharing; ++i) sum += parts[i][e % 16][row];
        if (p.bias[m]) sum += p.bias[m][col];
        if (GATED) {
            float up = 0.0f;
            for (u32 i = sharing; i < warps; ++i) up += parts[i][e % 16][row];
            if (p.bias[1]) up += p.bias[1][col];
            sum = silu(sum) * up;
        }
        if (p.add) sum += p.add[(u64)row * p.add_stride + col];
        p.y[m][(u64)row * p.y_stride[m] + col] = sum;
    }
}
