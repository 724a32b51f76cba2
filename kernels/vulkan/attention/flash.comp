// op: attention, many rows, by cooperative matrices. See `paged.comp` for what it
// computes.
// q as two f16 [T, heads, D] in the workspace (`halves.comp`), D a multiple of 16;
// cache in pages, f16 or int8_kv, every head aligned to 16 bytes; sinks f32 [heads]?;
// o f32 [T, heads, D], rows strided.
// Launch: one workgroup for each head (x) of CM rows a subgroup (y), the last rows
// first: they see most. Keys and values come 32 tokens at a time through shared
// memory, the next while the last are multiplied. A subgroup keeps its rows' q and o
// in matrices; scores pass through shared memory to the lanes that carry the softmax
// online, and come back as two f16 each, with the factors of o. Rows of several
// spans are done span by span. Tiling after Dao 2023 (FlashAttention-2).
// Tolerance 1e-4.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/stored.glsl"
#include "../common/scaled.glsl"
#include "../common/round.glsl"
#include "../common/tanh.glsl"
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#pragma use_vulkan_memory_model

layout(constant_id = 4) const uint SUBGROUP = 32;
layout(constant_id = 5) const uint CM = 16;
layout(constant_id = 6) const uint CN = 16;
layout(constant_id = 7) const uint CK = 16;
layout(constant_id = 8) const uint DIM = 64;

// Tokens at a time.
const uint KEYS = 32;
const uint SUBGROUPS = WG / SUBGROUP;
const uint PIECES = DIM / 8;
// Pieces of 16 bytes from row to row: one more than there are, against bank
// conflicts. Of keys and values, scores (f32), weights (f16).
const uint PITCH = PIECES + 1;
const uint S_PITCH = KEYS / 4 + 1;
const uint P_PITCH = KEYS / 8 + 1;
const uint VALUES = KEYS * PITCH;
// Of each subgroup: scores, then weights in their place; factors of rows.
const uint SCORES = 2 * VALUES;
const uint SCORES_EACH = CM * 2 * P_PITCH;
const uint FACTORS = SCORES + SUBGROUPS * SCORES_EACH;
const uint FACTORS_EACH = CM * CN / 4;
// Lanes of a row.
const uint PARTS = SUBGROUP / CM;
const uint PART_KEYS = KEYS / PARTS;
// Pieces of the cache that make up a key, pieces here that each becomes, and how many
// of them a lane brings.
const uint BECOMES = SCALED ? 2 : 1;
const uint STORED_PIECES = PIECES / BECOMES;
const uint EACH = (2 * KEYS * STORED_PIECES + WG - 1) / WG;
// Scales of keys and values.
const uint SCALES = SCALED ? 2 * KEYS : 1;
const uint SCALES_EACH = (SCALES + WG - 1) / WG;

layout(set = 0, binding = 0, scalar) readonly buffer Halves { uvec4 halves[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Cache { uvec4 cache[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Words { uint words[]; };
layout(set = 0, binding = 2, scalar) readonly buffer Sinks { float sinks[]; };
layout(set = 0, binding = 3, scalar) writeonly buffer O { float o[]; };
STEP_BUFFER(4)

// Offsets and strides of halves and the cache are in pieces, of the cache's scales in
// f16 numbers.
layout(push_constant, scalar) uniform Push {
    uint rows;
    uint group;
    uint high_at, low_at, q_stride;
    uint cache_at, page_stride, kv_stride, head_stride, token_stride;
    uint scales_at, scales_page, scales_kv;
    uint sinks_at, has_sinks;
    uint o_at, o_stride, o_aligned;
    uint block;
    uint positions, row_span, span_start;
    uint table, blocks;
    uint window;
    float softcap;
} p;

shared uvec4 tiles[FACTORS + SUBGROUPS * FACTORS_EACH];
shared float scales[SCALES];

uvec4 next[EACH];
float next_scale[SCALES_EACH];

// Keys and values of tokens base to base + 31, zeros for those that are not from
// `begin` to before `end`.
void fetch(uint kv_head, uint table, uint base, uint begin, uint end) {
    uint keys = p.cache_at + kv_head * p.head_stride;
    [[unroll]] for (uint e = 0; e < EACH; ++e) {
        uint i = gl_LocalInvocationID.x + e * WG;
        uint token = i / STORED_PIECES % KEYS;
        uint pos = base + token;
        next[e] = uvec4(0);
        if (i < 2 * KEYS * STORED_PIECES && pos >= begin && pos < end) {
            uint page = meta[table + pos / p.block];
            uint at = keys + page * p.page_stride + pos % p.block * p.token_stride + i % STORED_PIECES;
            next[e] = cache[at + (i < KEYS * STORED_PIECES ? 0 : p.kv_stride)];
        }
    }
    if (!SCALED) return;
    [[unroll]] for (uint e = 0; e < SCALES_EACH; ++e) {
        uint i = gl_LocalInvocationID.x + e * WG;
        uint pos = base + i % KEYS;
        next_scale[e] = 0.0;
        if (i < 2 * KEYS && pos >= begin && pos < end) {
            uint at = p.scales_at + kv_head * p.block + meta[table + pos / p.block] * p.scales_page
                + pos % p.block + (i < KEYS ? 0 : p.scales_kv);
            next_scale[e] = SCALE(words, at);
        }
    }
}

// Two words of f16 for one of bytes.
uvec2 halves_of(uint word) {
    vec4 four = codes(word);
    return uvec2(packHalf2x16(four.xy), packHalf2x16(four.zw));
}

void put() {
    [[unroll]] for (uint e = 0; e < EACH; ++e) {
        uint i = gl_LocalInvocationID.x + e * WG;
        if (i >= 2 * KEYS * STORED_PIECES) continue;
        uint to = i / STORED_PIECES * PITCH + i % STORED_PIECES * BECOMES;
        if (SCALED) {
            tiles[to] = uvec4(halves_of(next[e].x), halves_of(next[e].y));
            tiles[to + 1] = uvec4(halves_of(next[e].z), halves_of(next[e].w));
        } else {
            tiles[to] = next[e];
        }
    }
    if (!SCALED) return;
    [[unroll]] for (uint e = 0; e < SCALES_EACH; ++e) {
        uint i = gl_LocalInvocationID.x + e * WG;
        if (i < 2 * KEYS) scales[i] = next_scale[e];
    }
}

// What weights times the values' scales are multiplied by, so that the largest are
// good f16 numbers: 2^14 over a power of two that is no less than any scale so far.
float gain_of(float gain, uint lane) {
    float most = 0.0;
    for (uint i = lane; i < KEYS; i += SUBGROUP) most = max(most, scales[KEYS + i]);
    uint above = (floatBitsToUint(subgroupMax(most)) + 0x7fffffu) & 0x7f800000u;
    // The exponents of 2^14 and 1, less the power's.
    return min(gain, uintBitsToFloat((268u << 23) - max(above, 103u << 23)));
}

#define SUMS coopmat<float, gl_ScopeSubgroup, CM, CN, gl_MatrixUseAccumulator>
#define LEFT coopmat<float16_t, gl_ScopeSubgroup, CM, CK, gl_MatrixUseA>
#define RIGHT coopmat<float16_t, gl_ScopeSubgroup, CK, CN, gl_MatrixUseB>
const int ROW_MAJOR = gl_CooperativeMatrixLayoutRowMajor;
const int COLUMN_MAJOR = gl_CooperativeMatrixLayoutColumnMajor;

void main() {
    uint rows = REAL_ROWS(p.rows);
    uint head = gl_WorkGroupID.x;
    uint tile = gl_NumWorkGroups.y - 1 - gl_WorkGroupID.y;
    uint t0 = tile * CM * SUBGROUPS;
    if (t0 >= rows) return;
    uint t1 = min(t0 + CM * SUBGROUPS, rows);
    uint sub_lane = gl_SubgroupInvocationID;
    uint r0 = t0 + gl_SubgroupID * CM;
    uint r = sub_lane % CM;
    uint part = sub_lane / CM;
    uint row = r0 + r;
    uint scores = SCORES + gl_SubgroupID * SCORES_EACH;
    uint factors = FACTORS + gl_SubgroupID * FACTORS_EACH;
    uint kv_head = head / p.group;

    LEFT high[DIM / CK];
    LEFT low[DIM / CK];
    SUMS own[DIM / CN];
    uint q_at = r0 * p.q_stride + head * PIECES;
    [[unroll]] for (uint d = 0; d < DIM / CK; ++d) {
        coopMatLoad(high[d], halves, p.high_at + q_at + d * CK / 8, p.q_stride, ROW_MAJOR);
        coopMatLoad(low[d], halves, p.low_at + q_at + d * CK / 8, p.q_stride, ROW_MAJOR);
    }
    [[unroll]] for (uint d = 0; d < DIM / CN; ++d) own[d] = SUMS(0.0);
    float top = p.has_sinks != 0 ? sinks[p.sinks_at + head] : -3.0e38;
    float sum = p.has_sinks != 0 && part == 0 ? 1.0 : 0.0;
    // Of an unscaled cache 1; else for scales of at most 2^-24, the least that there is.
    float gain = SCALED ? 274877906944.0 : 1.0;

    uint my_span = row < rows ? meta[p.row_span + row] : 0xffffffffu;
    uint position = row < rows ? meta[p.positions + row] : 0;
    uint seen_from = p.window != 0 && position + 1 > p.window ? position + 1 - p.window : 0;
    uint last_span = meta[p.row_span + t1 - 1];
    for (uint span = meta[p.row_span + t0]; span <= last_span; ++span) {
        uint first_row = max(meta[p.span_start + span], t0);
        uint end_row = min(meta[p.span_start + span + 1], t1);
        if (first_row >= end_row) continue;
        uint table = p.table + span * p.blocks;
        uint lowest = meta[p.positions + first_row];
        uint begin = p.window != 0 && lowest + 1 > p.window ? lowest + 1 - p.window : 0;
        uint end = meta[p.positions + end_row - 1] + 1;
        // At the same steps for every row, wherever it stands in the batch.
        uint start = begin / KEYS * KEYS;
        fetch(kv_head, table, start, begin, end);
        for (uint base = start; base < end; base += KEYS) {
            barrier();
            put();
            barrier();
            if (base + KEYS < end) fetch(kv_head, table, base + KEYS, begin, end);

            [[unroll]] for (uint k = 0; k < KEYS / CN; ++k) {
                SUMS s = SUMS(0.0);
                [[unroll]] for (uint d = 0; d < DIM / CK; ++d) {
                    RIGHT key;
                    coopMatLoad(key, tiles, k * CN * PITCH + d * CK / 8, PITCH, COLUMN_MAJOR);
                    s = coopMatMulAdd(low[d], key, s);
                    s = coopMatMulAdd(high[d], key, s);
                }
                coopMatStore(s, tiles, scores + k * CN / 4, S_PITCH, ROW_MAJOR);
            }
            subgroupBarrier();
            float score[PART_KEYS];
            float best = -3.0e38;
            [[unroll]] for (uint i = 0; i < PART_KEYS; i += 4) {
                vec4 four = uintBitsToFloat(tiles[scores + r * S_PITCH + (part * PART_KEYS + i) / 4]);
                [[unroll]] for (uint n = 0; n < 4; ++n) {
                    uint pos = base + part * PART_KEYS + i + n;
                    float s = four[n];
                    if (SCALED) s *= scales[part * PART_KEYS + i + n];
                    if (p.softcap > 0.0) s = p.softcap * exact_tanh(s / p.softcap);
                    bool seen = my_span == span && pos <= position && pos >= seen_from;
                    score[i + n] = seen ? s : -3.0e38;
                    best = max(best, score[i + n]);
                }
            }
            if (PARTS > 1) {
                uint at = r * PARTS + part;
                tiles[factors + at / 4][at & 3u] = floatBitsToUint(best);
                subgroupBarrier();
                for (uint i = 0; i < PARTS; ++i) {
                    at = r * PARTS + i;
                    best = max(best, uintBitsToFloat(tiles[factors + at / 4][at & 3u]));
                }
            }
            float new_top = max(top, best);
            float keep = exp(top - new_top);
            top = new_top;
            sum *= keep;
            if (SCALED) {
                float new_gain = gain_of(gain, sub_lane);
                // A power of two.
                keep *= uintBitsToFloat(floatBitsToUint(new_gain) - floatBitsToUint(gain) + 0x3f800000u);
                gain = new_gain;
            }
            // All scores and maxima are read before anything is put in their place.
            subgroupBarrier();
            [[unroll]] for (uint i = 0; i < PART_KEYS; i += 8) {
                uvec4 weights;
                uvec4 rests;
                [[unroll]] for (uint n = 0; n < 4; ++n) {
                    vec2 s = vec2(score[i + 2 * n], score[i + 2 * n + 1]);
                    vec2 e = mix(exp(s - new_top), vec2(0.0), lessThan(s, vec2(-2.9e38)));
                    sum += e.x + e.y;
                    if (SCALED) {
                        uint at = KEYS + part * PART_KEYS + i + 2 * n;
                        e *= gain * vec2(scales[at], scales[at + 1]);
                    }
                    // Cut off by bits: a conversion there and back may be left out.
                    vec2 high = uintBitsToFloat(floatBitsToUint(e) & 0xffffe000u);
                    weights[n] = packHalf2x16(high);
                    rests[n] = packHalf2x16(e - high);
                }
                uint to = scores + r * P_PITCH + (part * PART_KEYS + i) / 8;
                tiles[to] = weights;
                tiles[to + CM * P_PITCH] = rests;
            }
            for (uint i = part; i < CN / 4; i += PARTS) {
                tiles[factors + r * (CN / 4) + i] = uvec4(floatBitsToUint(keep));
            }
            subgroupBarrier();
            SUMS factor;
            coopMatLoad(factor, tiles, factors, CN / 4, ROW_MAJOR);
            [[unroll]] for (uint d = 0; d < DIM / CN; ++d) {
                for (uint e = 0; e < factor.length(); ++e) own[d][e] *= factor[e];
            }
            [[unroll]] for (uint k = 0; k < KEYS / CK; ++k) {
                LEFT weight;
                LEFT rest;
                coopMatLoad(weight, tiles, scores + k * CK / 8, P_PITCH, ROW_MAJOR);
                coopMatLoad(rest, tiles, scores + CM * P_PITCH + k * CK / 8, P_PITCH, ROW_MAJOR);
                [[unroll]] for (uint d = 0; d < DIM / CN; ++d) {
                    RIGHT value;
                    coopMatLoad(value, tiles, VALUES + k * CK * PITCH + d * CN / 8, PITCH, ROW_MAJOR);
                    own[d] = coopMatMulAdd(rest, value, own[d]);
                    own[d] = coopMatMulAdd(weight, value, own[d]);
                }
            }
        }
    }

    barrier();
    if (PARTS > 1) {
        uint at = r * PARTS + part;
        tiles[scores + at / 4][at & 3u] = floatBitsToUint(sum);
        subgroupBarrier();
        sum = 0.0;
        for (uint i = 0; i < PARTS; ++i) {
            at = r * PARTS + i;
            sum += uintBitsToFloat(tiles[scores + at / 4][at & 3u]);
        }
    }
    if (SCALED) sum *= gain;
    for (uint i = part; i < CN / 4; i += PARTS) {
        tiles[factors + r * (CN / 4) + i] = uvec4(floatBitsToUint(sum));
    }
    subgroupBarrier();
    SUMS divisor;
    coopMatLoad(divisor, tiles, factors, CN / 4, ROW_MAJOR);
    // The same for all subgroups: some drivers let a whole workgroup meet at a barrier
    // of one of them.
    bool whole = p.o_aligned != 0 && t0 + CM * SUBGROUPS <= rows;
    [[unroll]] for (uint d = 0; d < DIM / CN; ++d) {
        for (uint e = 0; e < divisor.length(); ++e) own[d][e] /= divisor[e];
        uint column = head * DIM + d * CN;
        if (whole) {
            coopMatStore(own[d], o, p.o_at + r0 * p.o_stride + column, p.o_stride, ROW_MAJOR);
            continue;
        }
        subgroupBarrier();
        coopMatStore(own[d], tiles, factors, CN / 4, ROW_MAJOR);
        subgroupBarrier();
        for (uint e = sub_lane; e < CM * CN; e += SUBGROUP) {
            uint to = r0 + e / CN;
            if (to >= rows) continue;
            o[p.o_at + to * p.o_stride + column + e % CN] = uintBitsToFloat(tiles[factors + e / 4][e & 3u]);
        }
    }
}
