// op: attention, many rows, by matrices that a whole workgroup multiplies as one
// (GL_NV_cooperative_matrix2). See `paged.comp` for what it computes.
// q as two f16 [T, heads, D] in the workspace (`halves.comp`), D a multiple of 32;
// cache in pages of whole KEYS tokens, f16, every head aligned to 16 bytes; sinks f32
// [heads]?; o f32 [T, heads, D], rows strided.
// Launch: one workgroup for each head (x) of TILE_ROWS rows (y), the last rows first:
// they see most. Scores of KEYS·TILES tokens at a time stay in matrices, and so does
// the softmax, which is carried online; its weights are the sum of two f16 each. Rows
// of several spans are done span by span. Tiling after Dao 2023 (FlashAttention-2).
// Tolerance 1e-4.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/tanh.glsl"
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_NV_cooperative_matrix2 : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#pragma use_vulkan_memory_model

layout(constant_id = 3) const uint DIM = 64;
layout(constant_id = 4) const uint TILE_ROWS = 64;
// Tiles of keys at a time.
layout(constant_id = 5) const uint TILES = 1;

// Tokens of a tile: all of one page.
const uint KEYS = 32;
const float NONE = -3.0e38;

layout(set = 0, binding = 0, scalar) readonly buffer Halves { float16_t halves[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Cache { float16_t cache[]; };
layout(set = 0, binding = 2, scalar) readonly buffer Sinks { float sinks[]; };
layout(set = 0, binding = 3, scalar) writeonly buffer O { float o[]; };
STEP_BUFFER(4)

// As in `flash.comp`: offsets and strides of halves and the cache are in pieces of 16
// bytes.
layout(push_constant, scalar) uniform Push {
    uint rows;
    uint group;
    uint high_at, low_at, q_stride;
    uint cache_at, page_stride, kv_stride, head_stride, token_stride;
    uint sinks_at, has_sinks;
    uint o_at, o_stride, o_aligned;
    uint block;
    uint positions, row_span, span_start;
    uint table, blocks;
    uint window;
    float softcap;
} p;

#define SCORES coopmat<float, gl_ScopeWorkgroup, TILE_ROWS, KEYS, gl_MatrixUseAccumulator>
#define SUMS coopmat<float, gl_ScopeWorkgroup, TILE_ROWS, DIM, gl_MatrixUseAccumulator>
#define QUERIES coopmat<float16_t, gl_ScopeWorkgroup, TILE_ROWS, DIM, gl_MatrixUseA>
#define WEIGHTS coopmat<float16_t, gl_ScopeWorkgroup, TILE_ROWS, KEYS, gl_MatrixUseA>
#define KEY_TILE coopmat<float16_t, gl_ScopeWorkgroup, DIM, KEYS, gl_MatrixUseB>
#define VALUE_TILE coopmat<float16_t, gl_ScopeWorkgroup, KEYS, DIM, gl_MatrixUseB>

float larger(const in float a, const in float b) {
    return max(a, b);
}

float added(const in float a, const in float b) {
    return a + b;
}

// Of values that are all alike.
float either(const in float a, const in float b) {
    return a;
}

float capped(const in uint row, const in uint column, const in float s) {
    return p.softcap * exact_tanh(s / p.softcap);
}

uint first_row_of_tile() {
    return (gl_NumWorkGroups.y - 1 - gl_WorkGroupID.y) * TILE_ROWS;
}

// The score of a token that the row does not see is NONE.
float seen(const in uint row, const in uint column, const in float s, const in uint base, const in uint span) {
    uint r = first_row_of_tile() + row;
    if (r >= REAL_ROWS(p.rows) || meta[p.row_span + r] != span) return NONE;
    uint position = meta[p.positions + r];
    uint from = p.window != 0 && position + 1 > p.window ? position + 1 - p.window : 0;
    uint at = base + column;
    return at <= position && at >= from ? s : NONE;
}

void main() {
    uint rows = REAL_ROWS(p.rows);
    uint head = gl_WorkGroupID.x;
    uint t0 = first_row_of_tile();
    if (t0 >= rows) return;
    uint t1 = min(t0 + TILE_ROWS, rows);
    uint heads = gl_NumWorkGroups.x;
    uint keys = p.cache_at + head / p.group * p.head_stride;

    QUERIES high;
    QUERIES low;
    tensorLayoutNV<2> q_layout = createTensorLayoutNV(2);
    q_layout = setTensorLayoutDimensionNV(q_layout, t0 + TILE_ROWS, heads * DIM);
    q_layout = setTensorLayoutStrideNV(q_layout, p.q_stride * 8, 1);
    q_layout = sliceTensorLayoutNV(q_layout, t0, TILE_ROWS, head * DIM, DIM);
    coopMatLoadTensorNV(high, halves, p.high_at * 8, q_layout);
    coopMatLoadTensorNV(low, halves, p.low_at * 8, q_layout);
    tensorLayoutNV<2> token_layout = createTensorLayoutNV(2);
    token_layout = setTensorLayoutDimensionNV(token_layout, KEYS, DIM);
    token_layout = setTensorLayoutStrideNV(token_layout, p.token_stride * 8, 1);
    token_layout = sliceTensorLayoutNV(token_layout, 0, KEYS, 0, DIM);
    tensorViewNV<2, false, 1, 0> transposed = createTensorViewNV(2, false, 1, 0);

    SUMS own = SUMS(0.0);
    SCORES sum = SCORES(0.0);
    SCORES top = SCORES(p.has_sinks != 0 ? sinks[p.sinks_at + head] : NONE);
    uint last_span = meta[p.row_span + t1 - 1];
    for (uint span = meta[p.row_span + t0]; span <= last_span; ++span) {
        uint first_row = max(meta[p.span_start + span], t0);
        uint end_row = min(meta[p.span_start + span + 1], t1);
        if (first_row >= end_row) continue;
        uint table = p.table + span * p.blocks;
        uint lowest = meta[p.positions + first_row];
        uint begin = p.window != 0 && lowest + 1 > p.window ? lowest + 1 - p.window : 0;
        uint end = meta[p.positions + end_row - 1] + 1;
        bool alone = p.window == 0 && first_row == t0 && end_row == t1;
        // At the same steps for every row, wherever it stands in the batch.
        uint start = begin / (KEYS * TILES) * (KEYS * TILES);
        [[dont_unroll]] for (uint base = start; base < end; base += KEYS * TILES) {
            SCORES score[TILES];
            uint value_at[TILES];
            bool whole = alone && base + KEYS * TILES <= lowest + 1;
            [[unroll]] for (uint n = 0; n < TILES; ++n) {
                // Past the end the last again: none of it is seen.
                uint at = min(base + n * KEYS, (end - 1) / KEYS * KEYS);
                uint page = meta[table + at / p.block];
                uint key = keys + page * p.page_stride + at % p.block * p.token_stride;
                value_at[n] = key + p.kv_stride;
                KEY_TILE tile;
                coopMatLoadTensorNV(tile, cache, key * 8, token_layout, transposed);
                score[n] = coopMatMulAdd(low, tile, SCORES(0.0));
                score[n] = coopMatMulAdd(high, tile, score[n]);
                if (p.softcap > 0.0) coopMatPerElementNV(score[n], score[n], capped);
                if (!whole) coopMatPerElementNV(score[n], score[n], seen, base + n * KEYS, span);
            }
            SCORES most = score[0];
            [[unroll]] for (uint n = 1; n < TILES; ++n) {
                for (uint e = 0; e < most.length(); ++e) most[e] = max(most[e], score[n][e]);
            }
            SCORES best;
            coopMatReduceNV(best, most, gl_CooperativeMatrixReduceRowNV, larger);
            SCORES keep;
            for (uint e = 0; e < best.length(); ++e) {
                best[e] = max(top[e], best[e]);
                keep[e] = exp(top[e] - best[e]);
                sum[e] *= keep[e];
            }
            top = best;
            SUMS factor;
            coopMatReduceNV(factor, keep, gl_CooperativeMatrixReduceRowNV, either);
            for (uint e = 0; e < own.length(); ++e) own[e] *= factor[e];
            [[unroll]] for (uint n = 0; n < TILES; ++n) {
                SCORES rest;
                for (uint e = 0; e < top.length(); ++e) {
                    float s = score[n][e];
                    float weight = s < -2.9e38 ? 0.0 : exp(s - top[e]);
                    sum[e] += weight;
                    // Cut off by bits: a conversion there and back may be left out.
                    float head_of = uintBitsToFloat(floatBitsToUint(weight) & 0xffffe000u);
                    score[n][e] = head_of;
                    rest[e] = weight - head_of;
                }
                VALUE_TILE tile;
                coopMatLoadTensorNV(tile, cache, value_at[n] * 8, token_layout);
                own = coopMatMulAdd(WEIGHTS(rest), tile, own);
                own = coopMatMulAdd(WEIGHTS(score[n]), tile, own);
            }
        }
    }

    SUMS divisor;
    coopMatReduceNV(divisor, sum, gl_CooperativeMatrixReduceRowNV, added);
    if (p.has_sinks != 0) {
        float sink = sinks[p.sinks_at + head];
        SUMS highest;
        coopMatReduceNV(highest, top, gl_CooperativeMatrixReduceRowNV, either);
        for (uint e = 0; e < own.length(); ++e) divisor[e] += exp(sink - highest[e]);
    }
    for (uint e = 0; e < own.length(); ++e) own[e] /= divisor[e];
    tensorLayoutNV<2, gl_CooperativeMatrixClampModeConstantNV> o_layout =
        createTensorLayoutNV(2, gl_CooperativeMatrixClampModeConstantNV);
    o_layout = setTensorLayoutDimensionNV(o_layout, rows, heads * DIM);
    o_layout = setTensorLayoutStrideNV(o_layout, p.o_stride, 1);
    coopMatStoreTensorNV(own, o, p.o_at, sliceTensorLayoutNV(o_layout, t0, TILE_ROWS, head * DIM, DIM));
}
