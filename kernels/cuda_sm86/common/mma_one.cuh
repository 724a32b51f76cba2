// One row of x times block-quantised weights; the ops of `mma_gemv.cuh`, also with an
// rms_norm of x ahead and an add behind.
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

// x, or its norm with weights `norm`, to f16 in shared memory, zeros behind column k.
template <bool SUMS>
DEVICE void lay_row(const Row& row, const float* x, u32 k, u32 chunks, bool aligned,
                    const float* norm, float eps, float offset) {
    float scale = 1.0f;
    if (norm) {
        float sum = 0.0f;
        for (u32 i = threadIdx.x * 8; i < k; i += blockDim.x * 8) {
            float v[8];
            load8(v, x + i, aligned);
#pragma unroll
            for (int j = 0; j < 8; ++j) sum = fmaf(v[j], v[j], sum);
        }
        scale = 1.0f / sqrtf(block_sum(sum) / (float)k + eps);
    }
    // Whole warps stay together: they sum over their lanes.
    for (u32 i = threadIdx.x * 8; i < chunks * 256; i += blockDim.x * 8) {
        float v[8] = {};
        if (i < k) {
            load8(v, x + i, aligned);
            if (norm) {
#pragma unroll
                for (int j = 0; j < 8; ++j) v[j] = v[j] * scale * (norm[i + j] + offset);
            }
        }
        const uint4 h = rounded8(v);
        *(uint4*)(row.x + i) = h;
        if (SUMS) {
            const float e = quad_sum(sum8(h));
            if ((threadIdx.x & 3) == 0) row.sums[i / 32] = e;
        }
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

// A warp's share of a tile; the block's first one also lays x.
template <class S, bool SUMS>
DEVICE void tile_of(float (&acc)[2], const Args& p, const Row& row, const u8* w, u32 first, u32 sharing, bool& laid) {
    Chunk<S> own;
    load_chunk(own, w + (u64)min(first, p.chunks - 1) * S::CHUNK);
    if (!laid) {
        start_next();
        wait_for_previous();
        lay_row<SUMS>(row, p.x, p.k, p.chunks, p.aligned != 0, p.norm, p.eps, p.offset);
        laid = true;
    }
    walk<S>(acc, own, w, row, first, sharing, p.chunks);
}

// LAST: the scheme of the third matrix.
template <class Q, class LAST, bool GATED>
DEVICE void one(const Args& p) {
    __shared__ float parts[2][MOST_WARPS][16];
    const u32 warp = threadIdx.x >> 5, warps = blockDim.x >> 5, lane = threadIdx.x & 31;
    const u32 sharing = GATED ? warps / 2 : warps;
    const u32 first = warp % sharing;
    const Row row = shared_row(p.chunks);
    u32 all = (p.n[0] + 15) / 16;
    if (!GATED) all += (p.n[1] + 15) / 16 + (p.n[2] + 15) / 16;
    auto place = [&](u32 tile, u32& m) {
        m = 0;
        while (!GATED && m < 2 && tile >= (p.n[m] + 15) / 16) {
            tile -= (p.n[m] + 15) / 16;
            ++m;
        }
        return tile;
    };
    const bool SUMS = Q::MINS || LAST::MINS;
    bool laid = false;
    u32 turn = 0;
    for (u32 at = blockIdx.x; at < all; at += gridDim.x, turn ^= 1) {
        u32 m;
        const u32 tile = place(at, m);
        const bool last = !GATED && m == 2;
        const u8* w = p.w[GATED ? warp / sharing : m] + (u64)tile * p.chunks * (last ? LAST::CHUNK : Q::CHUNK);
        float acc[2];
        if constexpr (same<Q, LAST>::yes) {
            tile_of<Q, SUMS>(acc, p, row, w, first, sharing, laid);
        } else if (last) {
            tile_of<LAST, SUMS>(acc, p, row, w, first, sharing, laid);
        } else {
            tile_of<Q, SUMS>(acc, p, row, w, first, sharing, laid);
        }
        if ((lane & 3) == 0) {
            parts[turn][warp][lane >> 2] = acc[0];
            parts[turn][warp][(lane >> 2) + 8] = acc[1];
        }
        __syncthreads();
        const u32 col = tile * 16 + threadIdx.x;
        if (threadIdx.x < 16 && col < p.n[m] && real_rows(p.count)) {
            float sum = 0.0f;
            for (u32 i = 0; i < sharing; ++i) sum += parts[turn][i][threadIdx.x];
            if (p.bias[m]) sum += p.bias[m][col];
            if (GATED) {
                float up = 0.0f;
                for (u32 i = sharing; i < warps; ++i) up += parts[turn][i][threadIdx.x];
                if (p.bias[1]) up += p.bias[1][col];
                sum = silu(sum) * up;
            }
            if (p.add) sum += p.add[col];
            p.y[m][col] = sum;
        }
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
    lay_row<Q::MINS>(row, x, s.k, s.chunks, s.aligned != 0, 0, 0.0f, 0.0f);
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
