// One row of x times block-quantised weights; the ops of `mma_gemv.cuh`, also with an
// rms_norm of x ahead or an add behind, and behind that one of y.
// Launch: 256 threads; a block walks over tiles of 16 columns of y, or of gate and up;
// its warps share K by chunks of 256. x is normed, rounded to f16 and laid in shared
// memory once. Of the tensor core's 8 columns each gets another block of 32 of x (16
// where so many share a scale), so that the sums of 8 scales come out side by side and
// lane 4g + t applies those of blocks 2t and 2t + 1. Weights of a warp's first two
// chunks are under way before the kernel ahead has ended.
// Dynamic shared memory: chunks · 544 bytes.
#pragma once
#include "quant.cuh"
#include "reduce.cuh"

// A lane's share of a chunk of 16 rows by 256 columns.
template <class Q>
struct Chunk {
    typename Q::Bits bits[4];
    typename Q::Side side[Q::SUB == 32 ? 1 : 2];
};

template <class Q>
DEVICE void load_chunk(Chunk<Q>& c, const u8* at) {
    const u32 lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int i = 0; i < 4; ++i) Q::load_bits(c.bits[i], at, i, lane);
    if (Q::SUB == 32) {
        Q::load_side(c.side[0], at, t, g);
    } else {
        Q::load_side(c.side[0], at, t >> 1, g);
        Q::load_side(c.side[Q::SUB == 32 ? 0 : 1], at, 2 + (t >> 1), g);
    }
}

// What is added to the numbers of two neighbouring blocks, whose sums of x are e.
template <class Q>
DEVICE void fold_lows(float (&acc)[2], const typename Q::Side& side, int i, const float (&e)[4]) {
    float a[2], b[2];
    Q::lows(side, i, a, b);
    acc[0] = fmaf(a[1], e[1], fmaf(a[0], e[0], acc[0]));
    acc[1] = fmaf(b[1], e[1], fmaf(b[0], e[0], acc[1]));
}

// x of a chunk's columns against its rows g and g + 8; the lanes of a quad have a
// quarter of the sum each. `sums`: of each 32 columns of x.
template <class Q>
DEVICE void fold(float (&acc)[2], const Chunk<Q>& chunk, const u16* x, const float* sums) {
    const u32 lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    float s[2], r[2];
    if (Q::SUB == 32) {
        const uint4 own = *(const uint4*)(x + lane * 8);
        float even[4] = {}, c[4] = {};
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const uint4 b = g == j ? own : make_uint4(0, 0, 0, 0);
            u32 a[4];
            Q::plain_word(chunk.bits[j / 2], j % 2 * 2, a);
            mma(even, a, b.x, b.y, f16_t());
            Q::plain_word(chunk.bits[j / 2], j % 2 * 2 + 1, a);
            mma(c, a, b.z, b.w, f16_t());
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) c[i] += even[i];
        Q::pair(chunk.side[0], 0, s, r);
        const float low = fmaf(s[1], c[1], s[0] * c[0]), high = fmaf(r[1], c[3], r[0] * c[2]);
        fold_factors(acc, chunk.side[0], low, high, sums + 2 * t, Q());
        if constexpr (Q::LOWS) {
            float e[4] = {};
            ones(e, own.x, own.y);
            ones(e, own.z, own.w);
            fold_lows<Q>(acc, chunk.side[0], 0, e);
        }
    } else {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const uint2 own = *(const uint2*)(x + h * 128 + lane * 4);
            float c[4] = {};
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const uint2 b = g == j ? own : make_uint2(0, 0);
                u32 a[4];
                Q::plain_word(chunk.bits[2 * h + j / 4], j % 4, a);
                mma(c, a, b.x, b.y, f16_t());
            }
            Q::pair(chunk.side[Q::SUB == 32 ? 0 : h], t & 1, s, r);
            acc[0] += fmaf(s[1], c[1], s[0] * c[0]);
            acc[1] += fmaf(r[1], c[3], r[0] * c[2]);
            if constexpr (Q::LOWS) {
                float e[4] = {};
                ones(e, own.x, own.y);
                fold_lows<Q>(acc, chunk.side[Q::SUB == 32 ? 0 : h], t & 1, e);
            }
        }
    }
}

// Without minima the scales were all.
template <class Q, class Side>
DEVICE void fold_factors(float (&acc)[2], const Side&, float low, float high, const float*, Q) {
    acc[0] += low;
    acc[1] += high;
}
template <class Q>
DEVICE void fold_minima(float (&acc)[2], const q4_k_t::Side& side, float low, float high, const float* sums) {
    float d[2], m[2], a[2], b[2];
    Q::factors(side, d, m);
    Q::pair_mins(side, a, b);
    acc[0] = fmaf(d[0], low, acc[0]);
    acc[1] = fmaf(d[1], high, acc[1]);
    acc[0] = fmaf(-m[0], fmaf(a[1], sums[1], a[0] * sums[0]), acc[0]);
    acc[1] = fmaf(-m[1], fmaf(b[1], sums[1], b[0] * sums[0]), acc[1]);
}
DEVICE void fold_factors(float (&acc)[2], const q4_k_t::Side& side, float low, float high, const float* sums, q4_k_t) {
    fold_minima<q4_k_t>(acc, side, low, high, sums);
}
DEVICE void fold_factors(float (&acc)[2], const q4_k_t::Side& side, float low, float high, const float* sums, q5_k_t) {
    fold_minima<q5_k_t>(acc, side, low, high, sums);
}

// What a block keeps of x.
struct Row {
    u16* x;
    float* sums;
};

DEVICE Row shared_row(u32 chunks) {
    extern __shared__ uint4 shared_pieces[];
    Row row;
    row.x = (u16*)shared_pieces;
    row.sums = (float*)(row.x + chunks * 256);
    return row;
}

// Eight numbers of x, times a norm's scale and weights if there is one, to f16 in shared
// memory. Whole quads call.
template <bool SUMS>
DEVICE void lay8(const Row& row, u32 i, const float (&v)[8]) {
    const uint4 h = rounded8(v);
    *(uint4*)(row.x + i) = h;
    if (SUMS) {
        const float e = quad_sum(sum8(h));
        if ((threadIdx.x & 3) == 0) row.sums[i / 32] = e;
    }
}

// x in f16 in shared memory, zeros behind column k.
template <bool SUMS>
DEVICE void lay_row(const Row& row, const float* x, u32 k, u32 chunks, bool aligned) {
    for (u32 i = threadIdx.x * 8; i < chunks * 256; i += blockDim.x * 8) {
        float v[8] = {};
        if (i < k) load8(v, x + i, aligned);
        lay8<SUMS>(row, i, v);
    }
    __syncthreads();
}

// The weights of a norm that a thread meets first: they need not wait for x.
enum { HELD = 2 };
struct Held {
    float w[HELD][8];
};

DEVICE void hold(Held& held, const Args& p) {
#pragma unroll
    for (u32 j = 0; j < HELD; ++j) {
        const u32 i = (threadIdx.x + j * blockDim.x) * 8;
        if (i < p.k) load8(held.w[j], p.norm + i, p.aligned != 0);
    }
}

// The same of the norm of x.
template <bool SUMS>
DEVICE void lay_norm(const Row& row, const Args& p, const Held& held) {
    float v[HELD][8] = {};
    float sum = 0.0f;
#pragma unroll
    for (u32 j = 0; j < HELD; ++j) {
        const u32 i = (threadIdx.x + j * blockDim.x) * 8;
        if (i < p.k) load8(v[j], p.x + i, p.aligned != 0);
    }
#pragma unroll
    for (u32 j = 0; j < HELD; ++j) {
#pragma unroll
        for (int e = 0; e < 8; ++e) sum = fmaf(v[j][e], v[j][e], sum);
    }
    const u32 rest = (threadIdx.x + HELD * blockDim.x) * 8;
    for (u32 i = rest; i < p.k; i += blockDim.x * 8) {
        float u[8];
        load8(u, p.x + i, p.aligned != 0);
#pragma unroll
        for (int e = 0; e < 8; ++e) sum = fmaf(u[e], u[e], sum);
    }
    const float scale = 1.0f / sqrtf(block_sum(sum) / (float)p.k + p.eps);
#pragma unroll
    for (u32 j = 0; j < HELD; ++j) {
        const u32 i = (threadIdx.x + j * blockDim.x) * 8;
        if (i >= p.chunks * 256) continue;
#pragma unroll
        for (int e = 0; e < 8; ++e) v[j][e] = i < p.k ? v[j][e] * scale * (held.w[j][e] + p.offset) : 0.0f;
        lay8<SUMS>(row, i, v[j]);
    }
    for (u32 i = rest; i < p.chunks * 256; i += blockDim.x * 8) {
        float u[8] = {};
        if (i < p.k) {
            load8(u, p.x + i, p.aligned != 0);
#pragma unroll
            for (int e = 0; e < 8; ++e) u[e] = u[e] * scale * (p.norm[i + e] + p.offset);
        }
        lay8<SUMS>(row, i, u);
    }
    __syncthreads();
}

// A warp's chunks of a tile whose first chunk is in `own`.
template <class Q>
DEVICE void walk(float (&acc)[2], Chunk<Q>& own, const u8* w, const Row& row, u32 first, u32 stride, u32 chunks) {
    acc[0] = acc[1] = 0.0f;
    for (u32 c = first; c < chunks; c += stride) {
        Chunk<Q> next;
        load_chunk(next, w + (u64)min(c + stride, chunks - 1) * Q::CHUNK);
        fold<Q>(acc, own, row.x + c * 256, row.sums + c * 8);
        own = next;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) acc[i] = quad_sum(acc[i]);
}

// Lays x, once the kernel ahead has ended.
template <bool SUMS>
DEVICE void begin(const Args& p, const Row& row) {
    Held held;
    if (p.norm) hold(held, p);
    start_next();
    wait_for_previous();
    if (p.norm) {
        lay_norm<SUMS>(row, p, held);
    } else {
        lay_row<SUMS>(row, p.x, p.k, p.chunks, p.aligned != 0);
    }
}

// What a thread of the first 16 adds to its column's sums; asked for ahead of them.
struct Beside {
    float bias, up_bias, add;
};

template <bool GATED>
DEVICE Beside beside(const Args& p, u32 m, u32 col) {
    Beside b = {0.0f, 0.0f, 0.0f};
    if (threadIdx.x < 16 && col < p.n[m]) {
        if (p.bias[m]) b.bias = p.bias[m][col];
        if (GATED && p.bias[1]) b.up_bias = p.bias[1][col];
        if (p.add) b.add = p.add[col];
    }
    return b;
}

// Warps' sums of a tile's columns to y.
template <bool GATED>
DEVICE void store_tile(const Args& p, float (&parts)[MOST_WARPS][16], const float (&acc)[2], const Beside& b, u32 m, u32 tile, u32 rows) {
    const u32 warp = threadIdx.x >> 5, warps = blockDim.x >> 5, lane = threadIdx.x & 31;
    const u32 sharing = GATED ? warps / 2 : warps;
    if ((lane & 3) == 0) {
        parts[warp][lane >> 2] = acc[0];
        parts[warp][(lane >> 2) + 8] = acc[1];
    }
    __syncthreads();
    const u32 col = tile * 16 + threadIdx.x;
    if (threadIdx.x >= 16 || col >= p.n[m] || !rows) return;
    float sum = 0.0f;
    for (u32 i = 0; i < sharing; ++i) sum += parts[i][threadIdx.x];
    sum += b.bias;
    if (GATED) {
        float up = 0.0f;
        for (u32 i = sharing; i < warps; ++i) up += parts[i][threadIdx.x];
        sum = silu(sum) * (up + b.up_bias);
    }
    p.y[m][col] = sum + b.add;
}

// All matrices in one scheme: a tile's first chunk is under way before the last tile's
// sums are.
template <class Q, bool GATED>
DEVICE void one(const Args& p) {
    __shared__ float parts[2][MOST_WARPS][16];
    const u32 warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const u32 sharing = GATED ? warps / 2 : warps, first = warp % sharing;
    const Row row = shared_row(p.chunks);
    const u32 all = GATED ? (p.n[0] + 15) / 16 : units_of(p.n, 16);
    auto weights = [&](u32 tile) {
        const u32 m = GATED ? 0 : matrix_of(p.n, tile, 16);
        return p.w[GATED ? warp / sharing : m] + (u64)tile * p.chunks * Q::CHUNK;
    };
    Chunk<Q> own;
    const u8* w = weights(blockIdx.x);
    load_chunk(own, w + (u64)min(first, p.chunks - 1) * Q::CHUNK);
    if (!GATED && p.behind && threadIdx.x == 0) prefetch(p.behind + blockIdx.x * 16);
    begin<Q::MINS>(p, row);
    const u32 rows = real_rows(p.count);
    u32 turn = 0;
    for (u32 at = blockIdx.x; at < all; at += gridDim.x, turn ^= 1) {
        u32 tile = at;
        const u32 m = GATED ? 0 : matrix_of(p.n, tile, 16);
        const Beside b = beside<GATED>(p, m, tile * 16 + threadIdx.x);
        const u8* then = weights(min(at + gridDim.x, all - 1));
        float acc[2] = {};
        for (u32 c = first; c < p.chunks; c += sharing) {
            Chunk<Q> next;
            const bool more = c + sharing < p.chunks;
            load_chunk(next, (more ? w : then) + (u64)(more ? c + sharing : min(first, p.chunks - 1)) * Q::CHUNK);
            fold<Q>(acc, own, row.x + c * 256, row.sums + c * 8);
            own = next;
        }
        w = then;
        acc[0] = quad_sum(acc[0]);
        acc[1] = quad_sum(acc[1]);
        store_tile<GATED>(p, parts[turn], acc, b, m, tile, rows);
    }
    if (!GATED && p.behind && rows) norm_last(p.y[0], p.behind, p.normed, p.n[0], p.eps, p.offset);
}

// The last of three matrices in another scheme.
template <class Q, class LAST>
DEVICE void one_mixed(const Args& p) {
    __shared__ float parts[2][MOST_WARPS][16];
    const u32 warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const Row row = shared_row(p.chunks);
    begin<Q::MINS || LAST::MINS>(p, row);
    const u32 rows = real_rows(p.count);
    const u32 all = units_of(p.n, 16);
    u32 turn = 0;
    for (u32 at = blockIdx.x; at < all; at += gridDim.x, turn ^= 1) {
        u32 tile = at;
        const u32 m = matrix_of(p.n, tile, 16);
        const Beside b = beside<false>(p, m, tile * 16 + threadIdx.x);
        const u8* w = p.w[m] + (u64)tile * p.chunks * (m == 2 ? LAST::CHUNK : Q::CHUNK);
        const u32 first = min(warp, p.chunks - 1);
        float acc[2];
        if (m == 2) {
            Chunk<LAST> own;
            load_chunk(own, w + (u64)first * LAST::CHUNK);
            walk<LAST>(acc, own, w, row, warp, warps, p.chunks);
        } else {
            Chunk<Q> own;
            load_chunk(own, w + (u64)first * Q::CHUNK);
            walk<Q>(acc, own, w, row, warp, warps, p.chunks);
        }
        store_tile<false>(p, parts[turn], acc, b, m, tile, rows);
    }
}

// Launch: x over tiles of 16 rows of the stack, y over (row, part). Where a part's
// rows are no multiple of 16 its first and last tile are its neighbours' too. Of gate
// and up each half of the warps takes one.
template <class Q, bool GATED>
DEVICE void stacked(const Stacked& s) {
    __shared__ float parts[MOST_WARPS][16];
    start_next();
    wait_for_previous();
    u32 e;
    const float* x;
    float* y;
    if (!stacked_part(s, e, x, y)) return;
    const u32 tile = e * s.n / 16 + blockIdx.x;
    if (tile * 16 >= (e + 1) * s.n) return;
    const Row row = shared_row(s.chunks);
    const u32 warp = threadIdx.x >> 5, warps = blockDim.x >> 5, lane = threadIdx.x & 31;
    const u32 sharing = GATED ? warps / 2 : warps, first = warp % sharing;
    const u8* w = (const u8*)(GATED && warp >= sharing ? s.up : s.w) + (u64)tile * s.chunks * Q::CHUNK;
    Chunk<Q> own;
    load_chunk(own, w + (u64)first * Q::CHUNK);
    lay_row<Q::MINS>(row, x, s.k, s.chunks, s.aligned != 0);
    float acc[2];
    walk<Q>(acc, own, w, row, first, sharing, s.chunks);
    if ((lane & 3) == 0) {
        parts[warp][lane >> 2] = acc[0];
        parts[warp][(lane >> 2) + 8] = acc[1];
    }
    __syncthreads();
    const u32 n = tile * 16 + threadIdx.x;
    if (threadIdx.x < 16 && n >= e * s.n && n < (e + 1) * s.n) {
        float sum = 0.0f;
        for (u32 i = 0; i < sharing; ++i) sum += parts[i][threadIdx.x];
        if (s.bias) sum += s.bias[n];
        if (GATED) {
            float up = 0.0f;
            for (u32 i = sharing; i < warps; ++i) up += parts[i][threadIdx.x];
            if (s.up_bias) up += s.up_bias[n];
            sum = silu(sum) * up;
        }
        y[n - e * s.n] = sum;
    }
}
