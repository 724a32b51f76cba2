// The body of `split_mma.cuh` over int8_kv: as many bytes of keys and values under way, so
// twice the tokens. Codes are exact in f16; a key's scale goes to its score, a value's to
// its weight, which is kept between 0 and 2 over a power of two, as f16 and the rest.
#pragma once
#include "int8.cuh"

#include "split_mma.cuh"

// P codes that a lane reads at once.
template <int P>
struct Codes;
template <>
struct Codes<16> {
    typedef uint4 type;
};
template <>
struct Codes<8> {
    typedef uint2 type;
};
DEVICE u32 part(const uint2& v, int i) { return i == 0 ? v.x : v.y; }
DEVICE void encode(uint4& to, const float (&x)[16], float scale) {
    typedef int8_kv_t S;
    to = make_uint4(S::four_of(x, scale), S::four_of(x + 4, scale), S::four_of(x + 8, scale), S::four_of(x + 12, scale));
}
DEVICE void encode(uint2& to, const float (&x)[8], float scale) {
    to = make_uint2(int8_kv_t::four_of(x, scale), int8_kv_t::four_of(x + 4, scale));
}
// Two f16 that lie together.
DEVICE float from_pair(u32 v, u32 i) { return from_f16((u16)(i ? v >> 16 : v)); }
// The same with one of them replaced.
DEVICE u32 with_half(u32 v, u16 by, u32 i) { return __byte_perm(v, by, i ? 0x5410 : 0x3254); }

// A row's own key and value as they are stored: pieces 4P·c + P·t of one, P·g of the other.
template <int P>
struct Own {
    typename Codes<P>::type key[2], value;
    u16 key_scale, value_scale;
};

template <int D, int P>
DEVICE Own<P> own_of(const Fresh& fresh, u32 kv, const float (&table)[2][P]) {
    const u32 lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    Own<P> own;
    float key[2][P], weights[2][P] = {}, value[P], most = 0.0f, most_value = 0.0f;
    load_head<D, P>(key, fresh.k + kv * D, t, fresh.aligned);
    if (fresh.k_norm) load_head<D, P>(weights, fresh.k_norm, t, fresh.aligned);
#pragma unroll
    for (int i = 0; i < P; i += 8) load8(value + i, fresh.v + kv * D + g * P + i, fresh.aligned);
    turn<D, P>(key, weights, table, fresh.k_norm, fresh.k_eps, fresh.k_offset);
#pragma unroll
    for (int i = 0; i < P; ++i) {
        most = fmaxf(most, fmaxf(fabsf(key[0][i]), fabsf(key[1][i])));
        most_value = fmaxf(most_value, fabsf(value[i]));
    }
#pragma unroll
    for (int d = 16; d >= 4; d >>= 1) most_value = fmaxf(most_value, __shfl_xor_sync(0xffffffffu, most_value, d));
    own.key_scale = int8_kv_t::scale_of(quad_max(most));
    own.value_scale = int8_kv_t::scale_of(most_value);
    encode(own.key[0], key[0], from_f16(own.key_scale));
    encode(own.key[1], key[1], from_f16(own.key_scale));
    encode(own.value, value, from_f16(own.value_scale));
    return own;
}

template <int D, class N>
DEVICE void split_int8(const Args& p, const N& fresh) {
    // A warp's tokens: two groups that each lie in one page.
    enum { GROUPS = 2, STEP = GROUPS * TOKENS, P = D / 8 };
    typedef typename Codes<P>::type piece;
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
    const u64 codes = (u64)kv * p.c.head_stride, scales = 2 * kv * p.c.block;
    const u8* cache = (const u8*)p.cache;
    const u32* table = p.tables + span * p.c.blocks;
    const u32 mask = p.c.block - 1;
    if (!N::FRESH || row >= rows) wait_for_previous();
    if (row >= rows) return;

    // Where the codes of the 16 tokens from `at` on start, and their scales but for those of
    // the page; all lie in one page. Behind the last there is nothing to point at.
    struct Place {
        const u8* codes;
        const u8* scales;
    };
    auto place_of = [&](u32 at) {
        const u32 safe = min(at, end - 1), token = safe & mask & ~15u;
        const u8* page = cache + (u64)table[safe >> p.shift] * p.c.page_stride;
        return Place{page + codes + (u64)token * p.c.token_stride, page + scales + 2 * token};
    };
    u32 at = (begin & ~15u) + warp * STEP;
    // Keys of tokens 8j + g, dimensions 4P·c + P·t; scales of 8j + 2t and the next.
    piece k[2 * GROUPS][2];
    u32 key_scales[2 * GROUPS];
    auto load_keys = [&](u32 at) {
#pragma unroll
        for (u32 n = 0; n < GROUPS; ++n) {
            const Place from = place_of(at + n * TOKENS);
#pragma unroll
            for (u32 j = 0; j < 2; ++j) {
                const u8* key = from.codes + (u64)(j * 8 + g) * p.c.token_stride + t * P;
#pragma unroll
                for (u32 c = 0; c < 2; ++c) k[2 * n + j][c] = *(const piece*)(key + c * 4 * P);
                key_scales[2 * n + j] = *(const u32*)(from.scales + p.c.key_scales + 2 * (j * 8 + 2 * t));
            }
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
    Own<P> fresh_own;
    // A head's q over a power of two; dimension 4P·c + P·t + i in fragment P/4·c + i/4.
    u32 q[D / 16][4];
    float factor;
    {
        const float* from = p.q + (u64)row * p.q_stride + (head0 + (g < have ? g : 0)) * D;
        float v[2][P], top = 0.0f;
        if constexpr (N::FRESH) {
            float angles[2][P], w[2][P] = {};
            load_head<D, P>(v, from, t, fresh.aligned);
            load_head<D, P>(angles, fresh.table, t, fresh.aligned);
            if (fresh.q_norm) load_head<D, P>(w, fresh.q_norm, t, fresh.aligned);
            if (makes) fresh_own = own_of<D, P>(fresh, kv, angles);
            turn<D, P>(v, w, angles, fresh.q_norm, fresh.q_eps, fresh.q_offset);
        } else {
            load_head<D, P>(v, from, t, false);
        }
#pragma unroll
        for (int c = 0; c < 2; ++c) {
#pragma unroll
            for (int i = 0; i < P; ++i) top = fmaxf(top, fabsf(v[c][i]));
        }
        // Of normal numbers the exponent alone.
        top = __uint_as_float(__float_as_uint(quad_max(top)) & 0x7f800000u);
        if (!(top > 1e-30f && top < 1e30f)) top = 1.0f;
        const float less = 1.0f / top;
        factor = top * p.scale * 1.44269504f;
#pragma unroll
        for (int c = 0; c < 2; ++c) {
#pragma unroll
            for (int i = 0; i < P; i += 2) {
                u32(&to)[4] = q[c * (P / 4) + i / 4];
                halves(v[c][i] * less, v[c][i + 1] * less, to[i % 4], to[i % 4 + 1]);
            }
        }
    }
    float o[P][4] = {};
    // Of the values' scales so far the largest, as a power of two: o and its weights are over
    // it. At first the smallest that an f16 can be.
    float top = -3.0e38f, sum = 0.0f, over = 5.9604645e-8f;
    for (; at < end; at += WARPS * STEP) {
        // Tokens 16n + 2t, + 1, + 8, + 9; dimensions P·g.
        piece v[4 * GROUPS];
        u32 value_scales[2 * GROUPS];
#pragma unroll
        for (u32 n = 0; n < GROUPS; ++n) {
            const Place from = place_of(at + n * TOKENS);
#pragma unroll
            for (u32 j = 0; j < 4; ++j) {
                const u32 token = j / 2 * 8 + 2 * t + j % 2;
                v[4 * n + j] = *(const piece*)(from.codes + p.c.kv_stride + (u64)token * p.c.token_stride + g * P);
                if (j % 2 == 0) value_scales[2 * n + j / 2] = *(const u32*)(from.scales + p.c.value_scales + 2 * token);
            }
        }
        if constexpr (N::FRESH) {
            if (makes && at + STEP >= end) {
                const u32 own = position - at;
                const u32 page = table[position >> p.shift], token = position & mask;
                const bool stores = in_group == 0 && page < p.c.pages;
                u8* first = (u8*)p.cache + (u64)page * p.c.page_stride;
                u8* cell = first + codes + (u64)token * p.c.token_stride;
#pragma unroll
                for (u32 j = 0; j < 2 * GROUPS; ++j) {
                    if (j * 8 + g == own) {
#pragma unroll
                        for (u32 c = 0; c < 2; ++c) {
                            k[j][c] = fresh_own.key[c];
                            if (stores) *(piece*)(cell + t * P + c * 4 * P) = fresh_own.key[c];
                        }
                    }
                    if (j * 8 + 2 * t == (own & ~1u)) {
                        key_scales[j] = with_half(key_scales[j], fresh_own.key_scale, own & 1);
                        value_scales[j] = with_half(value_scales[j], fresh_own.value_scale, own & 1);
                    }
                }
#pragma unroll
                for (u32 j = 0; j < 4 * GROUPS; ++j) {
                    if (j / 2 * 8 + 2 * t + j % 2 != own) continue;
                    v[j] = fresh_own.value;
                    if (stores) *(piece*)(cell + p.c.kv_stride + g * P) = fresh_own.value;
                }
                if (stores && lane == 0) {
                    u8* scale = first + scales + 2 * token;
                    *(u16*)(scale + p.c.key_scales) = fresh_own.key_scale;
                    *(u16*)(scale + p.c.value_scales) = fresh_own.value_scale;
                }
            }
        }
        float score[2 * GROUPS][4] = {};
#pragma unroll
        for (u32 c = 0; c < 2; ++c) {
#pragma unroll
            for (u32 i = 0; i < P / 4; ++i) {
#pragma unroll
                for (u32 j = 0; j < 2 * GROUPS; ++j) {
                    u32 low, high;
                    codes_f16(part(k[j][c], i), low, high);
                    mma(score[j], q[c * (P / 4) + i], low, high, f16_t());
                }
            }
        }
        // What cells hold that no token was written to reaches neither scores nor weights.
        float best = top, most = 0.0f;
        float s[2 * GROUPS][2], by[2 * GROUPS][2];
#pragma unroll
        for (u32 j = 0; j < 2 * GROUPS; ++j) {
#pragma unroll
            for (u32 i = 0; i < 2; ++i) {
                const u32 pos = at + j * 8 + t * 2 + i;
                const bool in = pos >= begin && pos < end;
                const float scaled = (score[j][i] + score[j][i + 2]) * factor * from_pair(key_scales[j], i);
                s[j][i] = in ? scaled : __uint_as_float(0xff800000u);
                by[j][i] = in ? from_pair(value_scales[j], i) : 0.0f;
                best = fmaxf(best, s[j][i]);
                most = fmaxf(most, by[j][i]);
            }
        }
        load_keys(at + WARPS * STEP);
        best = quad_max(best);
        most = __uint_as_float(__float_as_uint(quad_max(most)) & 0x7f800000u);
        if (__any_sync(0xffffffffu, best > top || most > over)) {
            float keep = power_of_two(top - best);
            top = best;
            sum *= keep;
            if (most > over) {
                keep *= over * over_one(most);
                over = most;
            }
#pragma unroll
            for (int i = 0; i < P * 4; ++i) o[i / 4][i % 4] *= keep;
        }
        const float less = over_one(over);
        u32 w[GROUPS][4];
#pragma unroll
        for (u32 j = 0; j < 2 * GROUPS; ++j) {
            const float x = power_of_two(s[j][0] - top), y = power_of_two(s[j][1] - top);
            sum += x + y;
            halves(x * (by[j][0] * less), y * (by[j][1] * less), w[j / 2][j % 2 * 2], w[j / 2][j % 2 * 2 + 1]);
        }
#pragma unroll
        for (u32 n = 0; n < GROUPS; ++n) {
#pragma unroll
            for (int i = 0; i < P / 4; ++i) {
                // Dimensions 4i to 4i + 3 of the first two tokens, and of the others.
                u32 b[2][4];
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    const u32 x = part(v[4 * n + 2 * j], i), y = part(v[4 * n + 2 * j + 1], i);
                    codes_f16(__byte_perm(x, y, 0x5140), b[j][0], b[j][1]);
                    codes_f16(__byte_perm(x, y, 0x7362), b[j][2], b[j][3]);
                }
#pragma unroll
                for (int d = 0; d < 4; ++d) mma(o[4 * i + d], w[n], b[0][d], b[1][d], f16_t());
            }
        }
    }
    sum = quad_sum(sum);
    if (t == 0) tops[warp][g] = make_float2(top, sum);
#pragma unroll
    for (int i = 0; i < P; ++i) {
        float* to = &outs[warp][g][2 * t * P + i];
        to[0] = (o[i][0] + o[i][2]) * over;
        to[P] = (o[i][1] + o[i][3]) * over;
    }
    meet<D>(p, outs, tops, row, cut, head0, have, seen);
}
