// The body of attention on the tensor cores with the positions split over blocks; see
// `attention/split_mma.cu` and `rope_attend.cu`.
#pragma once
#include "mma.cuh"
#include "split.cuh"

enum { WARPS = 4, HEADS = 8, TOKENS = 16 };

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
// Two numbers as f16, and what that left.
DEVICE void halves(float x, float y, u32& high, u32& low) {
    high = to_f16x2(x, y);
    low = to_f16x2(x - from_f16((u16)high), y - from_f16((u16)(high >> 16)));
}
DEVICE u32 part(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// Whether the row's own key and value are still to be made and stored.
struct Stored {
    enum { FRESH = 0 };
};
// Norms of heads (or none) and a rope of whole heads stand ahead of q and k.
struct Fresh {
    static_assert(sizeof(Args) == 10 * 8 + sizeof(Pages) + 11 * 4, "the words behind p follow without padding");
    enum { FRESH = 1 };
    const float* k;
    const float* v;
    const float* table;
    const float* q_norm;
    const float* k_norm;
    Args p;
    float q_eps, q_offset, k_eps, k_offset;
    // Whether all of these and q start at 16-byte pieces.
    u32 aligned;
};

DEVICE void load8(float* v, const float* x, bool aligned) {
    if (aligned) {
        const float4 a = *(const float4*)x, b = *(const float4*)(x + 4);
        v[0] = a.x; v[1] = a.y; v[2] = a.z; v[3] = a.w;
        v[4] = b.x; v[5] = b.y; v[6] = b.z; v[7] = b.w;
    } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = x[i];
    }
}
// Pieces of a head: dimensions 4P·c + P·t + i.
template <int D, int P>
DEVICE void load_head(float (&v)[D / P / 4][P], const float* x, u32 t, bool aligned) {
#pragma unroll
    for (int c = 0; c < D / P / 4; ++c) {
#pragma unroll
        for (int i = 0; i < P; i += 8) load8(v[c] + i, x + c * 4 * P + t * P + i, aligned);
    }
}
// rope(norm(v)) of a head.
template <int D, int P>
DEVICE void turn(float (&v)[D / P / 4][P], const float (&w)[D / P / 4][P], const float (&table)[D / P / 4][P], bool normed, float eps, float offset) {
    const int C = D / P / 4;
    if (normed) {
        float sum = 0.0f;
#pragma unroll
        for (int c = 0; c < C; ++c) {
#pragma unroll
            for (int i = 0; i < P; ++i) sum = fmaf(v[c][i], v[c][i], sum);
        }
        const float scale = 1.0f / sqrtf(quad_sum(sum) / (float)D + eps);
#pragma unroll
        for (int c = 0; c < C; ++c) {
#pragma unroll
            for (int i = 0; i < P; ++i) v[c][i] = v[c][i] * scale * (w[c][i] + offset);
        }
    }
#pragma unroll
    for (int c = 0; c < C / 2; ++c) {
#pragma unroll
        for (int i = 0; i < P; ++i) {
            const float low = v[c][i], high = v[c + C / 2][i], cosine = table[c][i], sine = table[c + C / 2][i];
            v[c][i] = low * cosine - high * sine;
            v[c + C / 2][i] = high * cosine + low * sine;
        }
    }
}
DEVICE uint4 eight(const float (&v)[8]) {
    return make_uint4(to_f16x2(v[0], v[1]), to_f16x2(v[2], v[3]), to_f16x2(v[4], v[5]), to_f16x2(v[6], v[7]));
}

// Joins the warps' parts, which wait in shared memory, and then the splits.
template <int D>
DEVICE void meet(const Args& p, const float (&outs)[WARPS][HEADS][D], const float2 (&tops)[WARPS][HEADS], u32 row, u32 cut, u32 head0, u32 have,
                 const Seen& seen) {
    __syncthreads();
    for (u32 e = threadIdx.x; e < have * D; e += WARPS * 32) {
        const u32 h = e / D, d = e % D;
        float best = -3.0e38f;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) best = fmaxf(best, tops[w][h].x);
        float total = 0.0f, out = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            const float f = power_of_two(tops[w][h].x - best);
            total += f * tops[w][h].y;
            out = fmaf(f, outs[w][h][d], out);
        }
        if (seen.splits == 1) {
            p.o[(u64)row * p.o_stride + (head0 + h) * D + d] = out / total;
            continue;
        }
        const u64 slot = ((u64)row * p.heads + head0 + h) * p.splits + cut;
        p.outs[slot * D + d] = out;
        // `join` counts in powers of e.
        if (d == 0) p.tops[slot] = make_float2(best * 0.69314718f, total);
    }
    if (seen.splits > 1) join(p, row, row * gridDim.x + blockIdx.x, head0, have, seen.splits);
}

template <int D, class N>
DEVICE void split(const Args& p, const N& fresh) {
    __shared__ float outs[WARPS][HEADS][D];
    __shared__ float2 tops[WARPS][HEADS];
    const u32 row = blockIdx.y, cut = blockIdx.z;
    start_next();
    // No kernel writes the step buffer.
    const u32 rows = real_rows(p.count), position = p.positions[row], span = p.row_span[row];
    const Seen seen = seen_by(p, position);
    // The first split's block waits for all.
    if (cut > 0 && cut >= seen.splits) return;
    const u32 kv = blockIdx.x / p.head_blocks, in_group = blockIdx.x % p.head_blocks * HEADS;
    const u32 head0 = kv * p.group + in_group, have = min(p.group - in_group, (u32)HEADS);
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    const u32 begin = seen.first + cut * seen.chunk, end = min(seen.end, begin + seen.chunk);
    const u16* keys = (const u16*)p.cache + (u64)kv * p.c.head_stride;
    const u32* table = p.tables + span * p.c.blocks;
    const u32 mask = p.c.block - 1;
    if (!N::FRESH || row >= rows) wait_for_previous();
    if (row >= rows) return;

    // Where the 16 tokens from `at` on start; all lie in one page. Behind the last there
    // is nothing to point at.
    auto group_at = [&](u32 at) {
        const u32 safe = min(at, end - 1);
        return keys + (u64)table[safe >> p.shift] * p.c.page_stride + (u64)(safe & mask & ~15u) * p.c.token_stride;
    };
    u32 at = (begin & ~15u) + warp * TOKENS;
    uint4 k[2][D / 32];
    auto load_keys = [&](u32 at) {
        const u16* from = group_at(at) + t * 8;
#pragma unroll
        for (u32 j = 0; j < 2; ++j) {
#pragma unroll
            for (u32 c = 0; c < D / 32; ++c) k[j][c] = *(const uint4*)(from + (u64)(j * 8 + g) * p.c.token_stride + c * 32);
        }
    };
    load_keys(at);
    if constexpr (N::FRESH) {
        if (threadIdx.x < D / 8) {
            if (fresh.q_norm) prefetch(fresh.q_norm + threadIdx.x * 8);
            if (fresh.k_norm) prefetch(fresh.k_norm + threadIdx.x * 8);
        }
        // Of the cache's tokens this step makes the row's own alone.
        wait_for_previous();
    }

    // The row's own key and value, in the block that has the last positions.
    const bool makes = N::FRESH && end == seen.end;
    uint4 own_key[D / 32], own_value[D / 64];
    // A head's q over a power of two; dimension 32c + 8t + i in fragment 2c + i/4.
    u32 q[D / 16][4];
    float factor;
    {
        const float* from = p.q + (u64)row * p.q_stride + (head0 + (g < have ? g : 0)) * D + t * 8;
        float v[D / 32][8], top = 0.0f;
        if constexpr (N::FRESH) {
            float table[D / 32][8], w[D / 32][8] = {};
            load_head<D, 8>(v, from - t * 8, t, fresh.aligned);
            load_head<D, 8>(table, fresh.table, t, fresh.aligned);
            if (fresh.q_norm) load_head<D, 8>(w, fresh.q_norm, t, fresh.aligned);
            if (makes) {
                float key[D / 32][8], weights[D / 32][8] = {};
                load_head<D, 8>(key, fresh.k + kv * D, t, fresh.aligned);
                if (fresh.k_norm) load_head<D, 8>(weights, fresh.k_norm, t, fresh.aligned);
#pragma unroll
                for (int e = 0; e < D / 64; ++e) {
                    float value[8];
                    load8(value, fresh.v + kv * D + e * 64 + g * 8, fresh.aligned);
                    own_value[e] = eight(value);
                }
                turn<D, 8>(key, weights, table, fresh.k_norm, fresh.k_eps, fresh.k_offset);
#pragma unroll
                for (int c = 0; c < D / 32; ++c) own_key[c] = eight(key[c]);
            }
            turn<D, 8>(v, w, table, fresh.q_norm, fresh.q_eps, fresh.q_offset);
        } else {
#pragma unroll
            for (int c = 0; c < D / 32; ++c) load8(v[c], from + c * 32, false);
        }
#pragma unroll
        for (int c = 0; c < D / 32; ++c) {
#pragma unroll
            for (int i = 0; i < 8; ++i) top = fmaxf(top, fabsf(v[c][i]));
        }
        // Of normal numbers the exponent alone.
        top = __uint_as_float(__float_as_uint(quad_max(top)) & 0x7f800000u);
        if (!(top > 1e-30f && top < 1e30f)) top = 1.0f;
        const float less = 1.0f / top;
        factor = top * p.scale * 1.44269504f;
#pragma unroll
        for (int c = 0; c < D / 32; ++c) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                halves(v[c][2 * i] * less, v[c][2 * i + 1] * less, q[2 * c + i / 2][i % 2 * 2], q[2 * c + i / 2][i % 2 * 2 + 1]);
            }
        }
    }
    float o[D / 64][8][4] = {};
    float top = -3.0e38f, sum = 0.0f;
    for (; at < end; at += WARPS * TOKENS) {
        // Tokens 2t, 2t + 1, 2t + 8, 2t + 9; dimensions 64e + 8g.
        uint4 v[4][D / 64];
        const u16* from = group_at(at) + p.c.kv_stride + g * 8;
#pragma unroll
        for (u32 j = 0; j < 4; ++j) {
#pragma unroll
            for (u32 e = 0; e < D / 64; ++e) {
                v[j][e] = *(const uint4*)(from + (u64)(j / 2 * 8 + 2 * t + j % 2) * p.c.token_stride + e * 64);
            }
        }
        if (at < begin || at + TOKENS > end) {
            // Cells that no token was written to may hold anything, which zero times
            // does not take away.
#pragma unroll
            for (u32 j = 0; j < 4; ++j) {
                const u32 pos = at + j / 2 * 8 + 2 * t + j % 2;
#pragma unroll
                for (u32 e = 0; e < D / 64; ++e) {
                    if (pos < begin || pos >= end) v[j][e] = make_uint4(0, 0, 0, 0);
                }
            }
        }
        if constexpr (N::FRESH) {
            if (makes && at + TOKENS >= end) {
                const u32 own = position - at;
                const u32 page = table[position >> p.shift];
                const bool stores = in_group == 0 && page < p.c.pages;
                u16* cell = (u16*)p.cache + (u64)kv * p.c.head_stride + (u64)page * p.c.page_stride + (u64)(position & mask) * p.c.token_stride;
#pragma unroll
                for (u32 j = 0; j < 2; ++j) {
                    if (j * 8 + g != own) continue;
#pragma unroll
                    for (u32 c = 0; c < D / 32; ++c) {
                        k[j][c] = own_key[c];
                        if (stores) *(uint4*)(cell + t * 8 + c * 32) = own_key[c];
                    }
                }
#pragma unroll
                for (u32 j = 0; j < 4; ++j) {
                    if (j / 2 * 8 + 2 * t + j % 2 != own) continue;
#pragma unroll
                    for (u32 e = 0; e < D / 64; ++e) {
                        v[j][e] = own_value[e];
                        if (stores) *(uint4*)(cell + p.c.kv_stride + g * 8 + e * 64) = own_value[e];
                    }
                }
            }
        }
        float score[2][4] = {};
#pragma unroll
        for (u32 c = 0; c < D / 32; ++c) {
#pragma unroll
            for (u32 j = 0; j < 2; ++j) mma(score[j], q[2 * c], k[j][c].x, k[j][c].y, f16_t());
#pragma unroll
            for (u32 j = 0; j < 2; ++j) mma(score[j], q[2 * c + 1], k[j][c].z, k[j][c].w, f16_t());
        }
        load_keys(at + WARPS * TOKENS);
        float best = top;
        float s[2][2];
#pragma unroll
        for (u32 j = 0; j < 2; ++j) {
#pragma unroll
            for (u32 i = 0; i < 2; ++i) {
                const u32 pos = at + j * 8 + t * 2 + i;
                const bool in = pos >= begin && pos < end;
                s[j][i] = in ? (score[j][i] + score[j][i + 2]) * factor : __uint_as_float(0xff800000u);
                best = fmaxf(best, s[j][i]);
            }
        }
        best = quad_max(best);
        if (__any_sync(0xffffffffu, best > top)) {
            const float keep = power_of_two(top - best);
            top = best;
            sum *= keep;
#pragma unroll
            for (int i = 0; i < D / 64 * 32; ++i) o[i / 32][i / 4 % 8][i % 4] *= keep;
        }
        u32 w[4];
#pragma unroll
        for (u32 j = 0; j < 2; ++j) {
            const float x = power_of_two(s[j][0] - top), y = power_of_two(s[j][1] - top);
            halves(x, y, w[2 * j], w[2 * j + 1]);
            sum += x + y;
        }
#pragma unroll
        for (u32 e = 0; e < D / 64; ++e) {
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                const u32 pick = i % 2 ? 0x7632 : 0x5410;
                mma(o[e][i], w, __byte_perm(part(v[0][e], i / 2), part(v[1][e], i / 2), pick),
                    __byte_perm(part(v[2][e], i / 2), part(v[3][e], i / 2), pick), f16_t());
            }
        }
    }
    sum = quad_sum(sum);
    if (t == 0) tops[warp][g] = make_float2(top, sum);
#pragma unroll
    for (u32 e = 0; e < D / 64; ++e) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            float* to = &outs[warp][g][e * 64 + t * 16 + i];
            to[0] = o[e][i][0] + o[e][i][2];
            to[8] = o[e][i][1] + o[e][i][3];
        }
    }
    meet<D>(p, outs, tops, row, cut, head0, have, seen);
}
