// Attention of many rows on the tensor cores: what `flash.cu` and `flash_wide.cu` share.
// A warp has 16 rows; lane 4g + t those of g and g + 8.
#pragma once
#include "../common/cache.cuh"
#include "../common/mma.cuh"

struct Args {
    const float* q;
    const float* sinks;
    float* o;
    const u32* span_start;
    const void* cache;
    const u32* positions;
    const u32* row_span;
    const u32* tables;
    const u32* count;
    Pages c;
    u32 dim, group, q_stride, o_stride, window;
    float scale, cap;
    u32 shift;
};

DEVICE float power_of_two(float x) {
    float y;
    asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// Byte of the 16-byte piece c of a token.
template <int D>
DEVICE u32 piece_of(u32 token, u32 c) {
    return token * D * 2 + ((c ^ (token & 7)) << 4);
}

// The power of two that brings a row between 1 and 2, of the largest magnitude that a
// quad has between it: of normal numbers the exponent alone.
DEVICE float row_scale(float top) {
    top = __uint_as_float(__float_as_uint(quad_max(top)) & 0x7f800000u);
    if (!(top > 1e-30f && top < 1e30f)) top = 1.0f;
    return top;
}

// A row's q over a power of two, as f16 and the rest, where the lanes need them.
template <int D>
DEVICE void load_queries(u32 (&high)[D / 16][4], u32 (&low)[D / 16][4], float (&factor)[2], const Args& p, u32 row0, u32 head) {
    const u32 g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
    const u32 rows = real_rows(p.count);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const u32 row = row0 + g + 8 * i;
        const float* q = p.q + (u64)min(row, rows - 1) * p.q_stride + head * D + 2 * t;
        float v[D / 16][4];
        float top = 0.0f;
#pragma unroll
        for (int k = 0; k < D / 16; ++k) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                v[k][j] = q[k * 16 + j / 2 * 8 + j % 2];
                top = fmaxf(top, fabsf(v[k][j]));
            }
        }
        top = row_scale(top);
        const float less = 1.0f / top;
        factor[i] = top * p.scale * 1.44269504f;
#pragma unroll
        for (int k = 0; k < D / 16; ++k) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const float x = v[k][2 * j] * less, y = v[k][2 * j + 1] * less;
                const u32 h = to_f16x2(x, y);
                high[k][2 * j + i] = h;
                low[k][2 * j + i] = rest_f16x2(x, y, h);
            }
        }
    }
}

// First position that a row at `position` sees.
DEVICE u32 least(const Args& p, u32 position) { return p.window && position + 1 > p.window ? position + 1 - p.window : 0; }

// Rows of a warp that belong to a span: what they see of it.
struct View {
    int from[2], to[2];
    // Of all of them.
    int least, most;
    // Of all rows of the block, first and last; behind it cells may hold anything.
    u32 first, last;
};

// Rows [s, e) of a span; the warp's start at `own`.
DEVICE View view_of(const Args& p, u32 s, u32 e, u32 own) {
    const u32 g = (threadIdx.x & 31) >> 2;
    View view;
    view.last = p.positions[e - 1];
    view.first = least(p, p.positions[s]);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const u32 row = own + g + 8 * i;
        const bool in = row >= s && row < e;
        const u32 position = in ? p.positions[row] : 0;
        view.from[i] = least(p, position);
        view.to[i] = in ? (int)position : -1;
    }
    const u32 a = max(s, own), b = min(e, own + 16);
    view.most = a < b ? (int)p.positions[b - 1] : -1;
    view.least = a < b ? (int)least(p, p.positions[a]) : 0;
    return view;
}

// Where a token's key is read, if it is there at all.
template <class W>
DEVICE bool key_of(const Args& p, const View& view, const u32* table, const W* keys, u32 token, u32 c, const W*& key) {
    const u32 pos = min(token, view.last), page = table[pos >> p.shift];
    key = keys + (u64)page * p.c.page_stride + (u64)(pos & (p.c.block - 1)) * p.c.token_stride + c * (16 / sizeof(W));
    return token >= view.first && token <= view.last && page < p.c.pages;
}

// Scores of a tile whose keys start at k; q in registers.
template <int D, int TILE>
DEVICE void score_tile(float (&score)[TILE / 8][4], const u32 (&high)[D / 16][4], const u32 (&low)[D / 16][4], u32 k, u32 lane) {
#pragma unroll
    for (u32 d = 0; d < D / 16; ++d) {
        u32 b[TILE / 16][4];
#pragma unroll
        for (u32 j = 0; j < TILE / 16; ++j) {
            ldmatrix4(b[j], k + piece_of<D>(j * 16 + lane % 8 + lane / 16 * 8, d * 2 + lane / 8 % 2));
        }
#pragma unroll
        for (u32 j = 0; j < TILE / 8; ++j) mma(score[j], high[d], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1], f16_t());
#pragma unroll
        for (u32 j = 0; j < TILE / 8; ++j) mma(score[j], low[d], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1], f16_t());
    }
}

// A warp's rows of q into shared memory: two planes of f16.
template <int D>
DEVICE void park_queries(u8* shared, u32 plane, const u32 (&high)[D / 16][4], const u32 (&low)[D / 16][4], u32 warp, u32 g,
                         u32 t) {
#pragma unroll
    for (u32 d = 0; d < D / 16; ++d) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            u8* to = shared + piece_of<D>(warp * 16 + g + i % 2 * 8, d * 2 + i / 2) + t * 4;
            *(u32*)to = high[d][i];
            *(u32*)(to + plane) = low[d][i];
        }
    }
}

// Scores of a tile whose keys start at k; q parked at `base`.
template <int D, int TILE>
DEVICE void score_parked(float (&score)[TILE / 8][4], u32 base, u32 plane, u32 k, u32 warp, u32 lane) {
#pragma unroll 4
    for (u32 d = 0; d < D / 16; ++d) {
        u32 high[4], low[4], b[TILE / 16][4];
        const u32 q = base + piece_of<D>(warp * 16 + lane % 16, d * 2 + lane / 16);
        ldmatrix4(high, q);
        ldmatrix4(low, q + plane);
#pragma unroll
        for (u32 j = 0; j < TILE / 16; ++j) {
            ldmatrix4(b[j], k + piece_of<D>(j * 16 + lane % 8 + lane / 16 * 8, d * 2 + lane / 8 % 2));
        }
#pragma unroll
        for (u32 j = 0; j < TILE / 8; ++j) mma(score[j], high, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1], f16_t());
#pragma unroll
        for (u32 j = 0; j < TILE / 8; ++j) mma(score[j], low, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1], f16_t());
    }
}

// Keys and values without scales.
struct Unscaled {
    enum { ARE = 0 };
};

// Scores of tokens from `at` on to weights in two f16, and what is left of the sums and,
// in `keep`, of o.
template <int TILE, class C>
DEVICE void soften(float (&score)[TILE / 8][4], u32 (&weight)[TILE / 8][2], u32 (&rest)[TILE / 8][2], float (&keep)[2],
                   float (&top)[2], float (&sum)[2], const float (&factor)[2], const View& view, u32 at, C& scales) {
    const u32 t = threadIdx.x & 3;
    float best[2] = {top[0], top[1]};
    if constexpr (C::ARE) scales.start();
#pragma unroll
    for (u32 j = 0; j < TILE / 8; ++j) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            const int pos = at + j * 8 + t * 2 + i % 2;
            const bool seen = pos >= view.from[i / 2] && pos <= view.to[i / 2];
            if constexpr (C::ARE) score[j][i] *= scales.of_key(seen, i / 2, j * 8 + t * 2 + i % 2);
            score[j][i] = seen ? score[j][i] * factor[i / 2] : __uint_as_float(0xff800000u);
            best[i / 2] = fmaxf(best[i / 2], score[j][i]);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        best[i] = quad_max(best[i]);
        keep[i] = power_of_two(top[i] - best[i]);
        top[i] = best[i];
        sum[i] *= keep[i];
        if constexpr (C::ARE) keep[i] *= scales.kept(i);
    }
#pragma unroll
    for (u32 j = 0; j < TILE / 8; ++j) {
#pragma unroll
        for (u32 i = 0; i < 2; ++i) {
            const float x = power_of_two(score[j][2 * i] - top[i]), y = power_of_two(score[j][2 * i + 1] - top[i]);
            float a = x, b = y;
            if constexpr (C::ARE) {
                a *= scales.of_value(i, j * 8 + t * 2);
                b *= scales.of_value(i, j * 8 + t * 2 + 1);
            }
            const u32 w = to_f16x2(a, b);
            weight[j][i] = w;
            rest[j][i] = rest_f16x2(a, b, w);
            sum[i] += x + y;
        }
    }
}

// o = keep·o + weights·values.
template <int D, int TILE>
DEVICE void add_values(float (&o)[D / 8][4], const u32 (&weight)[TILE / 8][2], const u32 (&rest)[TILE / 8][2],
                       const float (&keep)[2], u32 v) {
    const u32 lane = threadIdx.x & 31;
#pragma unroll
    for (u32 d = 0; d < D / 8; ++d) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) o[d][i] *= keep[i / 2];
    }
#pragma unroll
    for (u32 j = 0; j < TILE / 16; ++j) {
        const u32 a[4] = {weight[2 * j][0], weight[2 * j][1], weight[2 * j + 1][0], weight[2 * j + 1][1]};
        const u32 c[4] = {rest[2 * j][0], rest[2 * j][1], rest[2 * j + 1][0], rest[2 * j + 1][1]};
#pragma unroll
        for (u32 d = 0; d < D / 16; ++d) {
            u32 b[4];
            ldmatrix4_trans(b, v + piece_of<D>(j * 16 + lane % 16, d * 2 + lane / 16));
            mma(o[2 * d], a, b[0], b[1], f16_t());
            mma(o[2 * d + 1], a, b[2], b[3], f16_t());
            mma(o[2 * d], c, b[0], b[1], f16_t());
            mma(o[2 * d + 1], c, b[2], b[3], f16_t());
        }
    }
}

// The warp's rows before r1.
template <int D>
DEVICE void store_rows(const Args& p, const float (&o)[D / 8][4], const float (&sum)[2], u32 own, u32 r1, u32 head) {
    const u32 g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const u32 row = own + g + 8 * i;
        const float total = quad_sum(sum[i]);
        if (row >= r1) continue;
        float* to = p.o + (u64)row * p.o_stride + head * D + 2 * t;
#pragma unroll
        for (u32 d = 0; d < D / 8; ++d) {
            to[d * 8] = o[d][2 * i] / total;
            to[d * 8 + 1] = o[d][2 * i + 1] / total;
        }
    }
}
