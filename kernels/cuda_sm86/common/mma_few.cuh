// Some rows of x times block-quantised weights; the ops of `mma_gemv.cuh`.
// Launch: a block of warps owns TILES tiles of 16 columns of one matrix, or half as many
// of gate and of up; its warps share K by chunks of 256. The weights are the tensor
// core's first operand and x, which `round_rows` has made f16, the second, 8 rows at a
// time and straight from the cache: each piece of x meets all tiles. Scales are applied
// as in `mma_gemm.cuh`, block by block; chunks are added in order, then warps in order.
// Dynamic shared memory: warps · 16·TILES · (8·NT + 1) · 4 bytes.
#pragma once
#include "rounded.cuh"

// A lane's share of 64 columns of a tile.
template <class Q>
struct Piece {
    typename Q::Bits bits;
    typename Q::Side side;
};

template <class Q, int TILES>
DEVICE void load_pieces(Piece<Q> (&own)[TILES], const u8* const (&w)[TILES], u64 chunk, u32 quarter) {
    const u32 lane = threadIdx.x & 31;
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
        Q::load_bits(own[i].bits, w[i] + chunk * Q::CHUNK, quarter, lane);
        Q::load_side(own[i].side, w[i] + chunk * Q::CHUNK, quarter, lane >> 2);
    }
}

// 64 columns of the tiles times up to 8·NT rows of x, given where lane 4g + t has row
// g's first column.
template <class Q, int TILES, int NT>
DEVICE void multiply(float (&acc)[TILES][NT][4], const Piece<Q> (&own)[TILES], const u16* const (&x)[NT], u32 column, u32 t) {
    const int PER = Q::SUB == 32 ? 2 : 4;
#pragma unroll
    for (int h = 0; h < PER; ++h) {
        uint4 b[NT];
#pragma unroll
        for (int j = 0; j < NT; ++j) {
            const u16* from = x[j] + column + h * Q::SUB + t * (Q::SUB / 4);
            if (Q::SUB == 32) {
                b[j] = *(const uint4*)from;
            } else {
                const uint2 v = *(const uint2*)from;
                b[j] = make_uint4(v.x, v.y, 0, 0);
            }
        }
        // Sums of x, where something is added to every number.
        float e[NT][4] = {};
        if constexpr (Q::LOWS) {
#pragma unroll
            for (int j = 0; j < NT; ++j) {
                ones(e[j], b[j].x, b[j].y);
                if (Q::SUB == 32) ones(e[j], b[j].z, b[j].w);
            }
        }
#pragma unroll
        for (int i = 0; i < TILES; ++i) {
            u32 a[2][4];
            float s[2], r[2], low, high;
            if constexpr (Q::WHOLE) {
                u32 c[4];
                whole_scales(own[i].side.s, h, c);
                Q::scaled_word(own[i].bits, 2 * h, c, a[0]);
                Q::scaled_word(own[i].bits, 2 * h + 1, c, a[1]);
                Q::factors(own[i].side, s, r);
                low = s[0];
                high = s[1];
            } else {
                if (Q::SUB == 32) {
                    Q::plain_word(own[i].bits, 2 * h, a[0]);
                    Q::plain_word(own[i].bits, 2 * h + 1, a[1]);
                    Q::pair(own[i].side, 0, s, r);
                } else {
                    Q::plain_word(own[i].bits, h, a[0]);
                    Q::pair(own[i].side, h / 2, s, r);
                }
                low = s[h % 2];
                high = r[h % 2];
            }
#pragma unroll
            for (int j = 0; j < NT; ++j) {
                float c[4] = {};
                mma(c, a[0], b[j].x, b[j].y, f16_t());
                if (Q::SUB == 32) mma(c, a[1], b[j].z, b[j].w, f16_t());
                acc[i][j][0] = fmaf(low, c[0], acc[i][j][0]);
                acc[i][j][1] = fmaf(low, c[1], acc[i][j][1]);
                acc[i][j][2] = fmaf(high, c[2], acc[i][j][2]);
                acc[i][j][3] = fmaf(high, c[3], acc[i][j][3]);
            }
            if constexpr (Q::LOWS) {
                Q::lows(own[i].side, Q::SUB == 32 ? 0 : h / 2, s, r);
#pragma unroll
                for (int j = 0; j < NT; ++j) {
#pragma unroll
                    for (int k = 0; k < 4; ++k) acc[i][j][k] = fmaf(k < 2 ? s[h % 2] : r[h % 2], e[j][k], acc[i][j][k]);
                }
            }
        }
    }
}

// The minima of a chunk against the sums of x, given where row g has the chunk's.
template <class Q, int TILES, int NT>
DEVICE void less_minima(float (&acc)[TILES][NT][4], const u8* const (&w)[TILES], u64 chunk, const u16* const (&sums)[NT], u32 g, u32 t) {
    u32 e[NT][2];
#pragma unroll
    for (int j = 0; j < NT; ++j) {
        const u32* from = (const u32*)(sums[j] + chunk * 16);
        e[j][0] = from[t];
        e[j][1] = from[4 + t];
    }
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
        typename Q::Side side;
        Q::load_side(side, w[i] + chunk * Q::CHUNK, t, g);
        u32 a[4];
        float d[2], m[2];
        whole_mins(side.s, a);
        Q::factors(side, d, m);
#pragma unroll
        for (int j = 0; j < NT; ++j) {
            float c[4] = {};
            mma(c, a, e[j][0], e[j][1], f16_t());
#pragma unroll
            for (int k = 0; k < 4; ++k) acc[i][j][k] = fmaf(-8.0f * m[k / 2], c[k], acc[i][j][k]);
        }
    }
}

// A warp's chunks of the block's tiles for rows from r0 on.
template <class S, int TILES, int NT>
DEVICE void sweep(float (&acc)[TILES][NT][4], const RoundedArgs& p, const u8* const (&w)[TILES], u32 r0, u32 first, u32 stride, bool begins) {
    const u32 lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    Piece<S> own[TILES];
    load_pieces<S, TILES>(own, w, min(first, p.chunks - 1), 0);
    if (begins) {
        start_next();
        wait_for_previous();
    }
    const u32 rows = real_rows(p.count);
    const u16* x[NT];
    const u16* sums[NT];
#pragma unroll
    for (int j = 0; j < NT; ++j) {
        const u64 r = rows ? min(r0 + 8 * j + g, rows - 1) : 0;
        x[j] = p.x + r * p.chunks * 256;
        sums[j] = p.sums + r * p.chunks * 16;
#pragma unroll
        for (int i = 0; i < TILES; ++i) {
#pragma unroll
            for (int k = 0; k < 4; ++k) acc[i][j][k] = 0.0f;
        }
    }
    for (u32 c = first; c < p.chunks && r0 < rows; c += stride) {
#pragma unroll 1
        for (u32 quarter = 0; quarter < 4; ++quarter) {
            Piece<S> next[TILES];
            const u32 then = quarter < 3 ? c : min(c + stride, p.chunks - 1);
            load_pieces<S, TILES>(next, w, then, (quarter + 1) % 4);
            multiply<S, TILES, NT>(acc, own, x, c * 256 + quarter * 64, t);
#pragma unroll
            for (int i = 0; i < TILES; ++i) own[i] = next[i];
        }
        if constexpr (S::MINS) less_minima<S, TILES, NT>(acc, w, c, sums, g, t);
    }
}

// LAST: the scheme of the third matrix.
template <class Q, class LAST, int TILES, int NT, bool GATED>
DEVICE void few(const RoundedArgs& p) {
    const int COLUMNS = TILES * 16, OWN = GATED ? COLUMNS / 2 : COLUMNS;
    // Of each warp, column and row; rows a word apart from a multiple of the banks.
    const u32 LINE = 8 * NT + 1;
    extern __shared__ float parts[];
    const u32 warp = threadIdx.x >> 5, warps = blockDim.x >> 5, lane = threadIdx.x & 31;
    u32 block = blockIdx.x;
    const u32 m = GATED ? 0 : matrix_of(p.n, block, OWN);
    const bool last = !same<Q, LAST>::yes && m == 2;
    // Tiles behind the last are the last once more.
    const u8* w[TILES];
#pragma unroll
    for (u32 i = 0; i < TILES; ++i) {
        const u32 which = GATED ? i / (TILES / 2) : m;
        const u32 tile = block * (OWN / 16) + (GATED ? i % (TILES / 2) : i);
        w[i] = p.w[which] + (u64)min(tile, (p.n[which] + 15) / 16 - 1) * p.chunks * (last ? LAST::CHUNK : Q::CHUNK);
    }
    bool begins = true;
    u32 r0 = 0;
    do {
        float acc[TILES][NT][4];
        if constexpr (same<Q, LAST>::yes) {
            sweep<Q, TILES, NT>(acc, p, w, r0, warp, warps, begins);
        } else if (last) {
            sweep<LAST, TILES, NT>(acc, p, w, r0, warp, warps, begins);
        } else {
            sweep<Q, TILES, NT>(acc, p, w, r0, warp, warps, begins);
        }
        begins = false;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TILES; ++i) {
#pragma unroll
            for (int j = 0; j < NT; ++j) {
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    const u32 c = i * 16 + (lane >> 2) + k / 2 * 8, r = j * 8 + (lane & 3) * 2 + k % 2;
                    parts[(warp * COLUMNS + c) * LINE + r] = acc[i][j][k];
                }
            }
        }
        __syncthreads();
        const u32 rows = real_rows(p.count);
        for (u32 e = threadIdx.x; e < OWN * 8 * NT; e += blockDim.x) {
            const u32 in = e / OWN, c = e % OWN, row = r0 + in, col = block * OWN + c;
            if (row >= rows || col >= p.n[m]) continue;
            float sum = 0.0f;
            for (u32 i = 0; i < warps; ++i) sum += parts[(i * COLUMNS + c) * LINE + in];
            if (p.bias[m]) sum += p.bias[m][col];
            if (GATED) {
                float up = 0.0f;
                for (u32 i = 0; i < warps; ++i) up += parts[(i * COLUMNS + OWN + c) * LINE + in];
                if (p.bias[1]) up += p.bias[1][col];
                sum = silu(sum) * up;
            }
            if (p.add) sum += p.add[(u64)row * p.add_stride + col];
            p.y[m][(u64)row * p.y_stride[m] + col] = sum;
        }
        r0 += 8 * NT;
    } while (r0 < real_rows(p.count));
}
