// op: attention, many rows, heads of 64 or 128, f16 caches. o = softmax(scale·q·kᵀ)·v
// as in `paged`, without soft cap and sinks, on the tensor cores.
// q, o f32 [T, heads, D]; cache in pages of a power of two of tokens, f16.
// Launch: 8 warps for each head (x) of 128 rows (y), the last rows first: they see
// most. A warp keeps 16 rows: q as two f16, brought to between 1 and 2 by a power of
// two a row, in registers; the softmax carried online in f32. Keys and values come in
// tiles of 64 tokens, two in shared memory, 16-byte pieces permuted so that ldmatrix
// meets no bank conflict. Rows of several spans are done span by span.
// Weights of the softmax are two f16 as well. Tolerance 1e-4. Tiling after Dao 2023 (FlashAttention-2).
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

enum { WARPS = 8, ROWS = 16 * WARPS, TILE = 64 };

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
        // Of normal numbers the exponent alone.
        top = __uint_as_float(__float_as_uint(quad_max(top)) & 0x7f800000u);
        if (!(top > 1e-30f && top < 1e30f)) top = 1.0f;
        const float less = 1.0f / top;
        factor[i] = top * p.scale * 1.44269504f;
#pragma unroll
        for (int k = 0; k < D / 16; ++k) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const float x = v[k][2 * j] * less, y = v[k][2 * j + 1] * less;
                const u32 h = to_f16x2(x, y);
                high[k][2 * j + i] = h;
                low[k][2 * j + i] = to_f16x2(x - from_f16((u16)h), y - from_f16((u16)(h >> 16)));
            }
        }
    }
}

template <int D>
DEVICE void flash(const Args& p) {
    extern __shared__ __align__(16) u8 shared_bytes[];
    const u32 BYTES = TILE * D * 2;
    start_next();
    wait_for_previous();
    const u32 rows = real_rows(p.count), r0 = (gridDim.y - 1 - blockIdx.y) * ROWS;
    if (r0 >= rows) return;
    const u32 r1 = min(rows, r0 + ROWS), head = blockIdx.x;
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    const u32 own = r0 + warp * 16;
    const u32 base = shared_address(shared_bytes);
    const u16* keys = (const u16*)p.cache + (u64)(head / p.group) * p.c.head_stride;

    u32 high[D / 16][4], low[D / 16][4];
    float factor[2], top[2] = {-1e30f, -1e30f}, sum[2] = {};
    float o[D / 8][4] = {};
    load_queries<D>(high, low, factor, p, own, head);

    for (u32 s = r0; s < r1;) {
        const u32 span = p.row_span[s], e = min(r1, p.span_start[span + 1]);
        const u32* table = p.tables + span * p.c.blocks;
        const u32 last = p.positions[e - 1];
        auto least = [&](u32 position) { return p.window && position + 1 > p.window ? position + 1 - p.window : 0; };
        // Behind it cells may hold anything.
        const u32 first = least(p.positions[s]), begin = first / TILE * TILE;
        int from[2], to[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const u32 row = own + g + 8 * i;
            const bool in = row >= s && row < e;
            const u32 position = in ? p.positions[row] : 0;
            from[i] = least(position);
            to[i] = in ? (int)position : -1;
        }
        // What the warp's rows see at all.
        const u32 a = max(s, own), b = min(e, own + 16);
        const int warp_to = a < b ? (int)p.positions[b - 1] : -1;
        const int warp_from = a < b ? (int)least(p.positions[a]) : 0;

        auto fetch = [&](u32 at, u32 stage) {
            if (at <= last) {
                const u32 k = base + stage * 2 * BYTES;
#pragma unroll
                for (u32 i = 0; i < TILE * D / 8 / (WARPS * 32); ++i) {
                    const u32 piece = threadIdx.x + i * WARPS * 32, token = piece / (D / 8), c = piece % (D / 8);
                    const u32 pos = min(at + token, last), page = table[pos >> p.shift];
                    const bool there = at + token >= first && at + token <= last && page < p.c.pages;
                    const u16* key = keys + (u64)page * p.c.page_stride + (u64)(pos & (p.c.block - 1)) * p.c.token_stride + c * 8;
                    copy_async(k + piece_of<D>(token, c), there ? key : keys, there);
                    copy_async(k + BYTES + piece_of<D>(token, c), there ? key + p.c.kv_stride : keys, there);
                }
            }
            copy_commit();
        };
        fetch(begin, 0);
        u32 stage = 0;
        for (u32 at = begin; at <= last; at += TILE, stage ^= 1) {
            fetch(at + TILE, stage ^ 1);
            copy_wait<1>();
            __syncthreads();
            if ((int)at <= warp_to && (int)at + TILE > warp_from) {
                const u32 k = base + stage * 2 * BYTES, v = k + BYTES;
                float score[TILE / 8][4] = {};
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
                float best[2] = {top[0], top[1]};
#pragma unroll
                for (u32 j = 0; j < TILE / 8; ++j) {
#pragma unroll
                    for (u32 i = 0; i < 4; ++i) {
                        const int pos = at + j * 8 + t * 2 + i % 2;
                        const bool seen = pos >= from[i / 2] && pos <= to[i / 2];
                        score[j][i] = seen ? score[j][i] * factor[i / 2] : __uint_as_float(0xff800000u);
                        best[i / 2] = fmaxf(best[i / 2], score[j][i]);
                    }
                }
                float keep[2];
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    best[i] = quad_max(best[i]);
                    keep[i] = power_of_two(top[i] - best[i]);
                    top[i] = best[i];
                    sum[i] *= keep[i];
                }
                u32 weight[TILE / 8][2], rest[TILE / 8][2];
#pragma unroll
                for (u32 j = 0; j < TILE / 8; ++j) {
#pragma unroll
                    for (u32 i = 0; i < 2; ++i) {
                        const float x = power_of_two(score[j][2 * i] - top[i]), y = power_of_two(score[j][2 * i + 1] - top[i]);
                        const u32 w = to_f16x2(x, y);
                        weight[j][i] = w;
                        rest[j][i] = to_f16x2(x - from_f16((u16)w), y - from_f16((u16)(w >> 16)));
                        sum[i] += x + y;
                    }
                }
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
            __syncthreads();
        }
        copy_wait<0>();
        s = e;
    }
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

KERNEL __launch_bounds__(256) flash_64(const __grid_constant__ Args p) { flash<64>(p); }
KERNEL __launch_bounds__(256) flash_128(const __grid_constant__ Args p) { flash<128>(p); }
