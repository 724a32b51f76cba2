// op: attention, few rows. See `paged.comp` for what it computes.
// q f32 [T, heads, D], rows strided; cache in pages, f16, bf16 or int8_kv, every head
// whole pieces of 16 bytes at multiples of those. Partial results f32 [T, heads, splits, D + 2]:
// Σ weight·v, then the largest score and Σ weight; `merge.comp` joins them.
// Launch: one workgroup for each HEADS query heads of one kv head (x), row (y) and
// split of the visible positions (z), so that a key or value is read once for all of
// them. Lanes score a position each, then take pieces of 16 bytes of the values.
// Tolerance 5e-5, as `paged`.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"
#include "../common/stored.glsl"
#include "../common/scaled.glsl"
#include "../common/tanh.glsl"

layout(constant_id = 4) const uint DIM = 64;
layout(constant_id = 5) const uint HEADS = 1;
// Elements of a piece, and vectors of four of them.
const uint EACH = SCALED ? 16 : 8;
const uint QUADS = EACH / 4;
// Pieces of a key, and positions whose values are taken at once.
const uint PIECES = DIM / EACH;
const uint SUBSETS = WG / PIECES;
// Pieces of keys or values that are loaded before the first is used.
const uint AHEAD = 8;

layout(set = 0, binding = 0, scalar) readonly buffer Q { float q[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Cache { uvec4 cache[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Words { uint words[]; };
layout(set = 0, binding = 2, scalar) writeonly buffer Parts { float parts[]; };
STEP_BUFFER(3)

// Offsets and strides of the cache are in pieces, of its scales in f16 numbers.
layout(push_constant, scalar) uniform Push {
    uint rows;
    uint heads, group;
    uint q_at, q_stride;
    uint cache_at, page_stride, kv_stride, head_stride, token_stride;
    uint scales_at, scales_page, scales_kv;
    uint parts_at;
    uint block;
    uint positions, row_span;
    uint table, blocks;
    uint window;
    float scale, softcap;
} p;

shared vec4 query[HEADS * PIECES * QUADS];
shared float weight[HEADS * WG];
// Of each head and subgroup (of four lanes at least): the largest score, Σ weight.
shared float highest[HEADS * WG / 4];
shared float totals[HEADS * WG / 4];
shared uint value_at[WG];
shared float sums[WG * EACH];

vec4 quad(uvec4 piece, uint i) {
    if (SCALED) return codes(piece[i]);
    return vec4(decode16x2(piece[(2 * i) & 3]), decode16x2(piece[(2 * i + 1) & 3]));
}

void main() {
    uint t = gl_WorkGroupID.y;
    if (t >= REAL_ROWS(p.rows)) return;
    uint lane = gl_LocalInvocationID.x;
    uint first_head = gl_WorkGroupID.x * HEADS;
    uint position = meta[p.positions + t];
    uint first = p.window != 0 && position + 1 > p.window ? position + 1 - p.window : 0;
    uint splits = gl_NumWorkGroups.z;
    uint each = (position + splits - first) / splits;
    each = (each + WG - 1) / WG * WG;
    uint from = first + gl_WorkGroupID.z * each;
    uint to = min(from + each, position + 1);
    uint out_at = p.parts_at + ((t * p.heads + first_head) * splits + gl_WorkGroupID.z) * (DIM + 2);
    uint out_step = splits * (DIM + 2);
    // The second half passes over what has no positions.
    if (from >= to) return;
    uint q_from = p.q_at + t * p.q_stride + first_head * DIM;
    for (uint i = lane; i < HEADS * PIECES * QUADS; i += WG) {
        uint e = q_from + 4 * i;
        query[i] = p.scale * vec4(q[e], q[e + 1], q[e + 2], q[e + 3]);
    }
    uint table = p.table + meta[p.row_span + t] * p.blocks;
    uint keys = p.cache_at + (first_head / p.group) * p.head_stride;
    uint scales = p.scales_at + (first_head / p.group) * p.block;
    uint piece = lane % PIECES;
    uint subset = lane / PIECES;
    vec4 own[HEADS * QUADS];
    float top[HEADS];
    float sum[HEADS];
    [[unroll]] for (uint h = 0; h < HEADS; ++h) {
        [[unroll]] for (uint i = 0; i < QUADS; ++i) own[h * QUADS + i] = vec4(0.0);
        top[h] = -3.0e38;
        sum[h] = 0.0;
    }
    workgroup_sync();
    for (uint at = from; at < to; at += WG) {
        uint pos = at + lane;
        bool seen = pos < to;
        float score[HEADS];
        float value_scale = 1.0;
        [[unroll]] for (uint h = 0; h < HEADS; ++h) score[h] = 0.0;
        if (seen) {
            uint page = meta[table + pos / p.block];
            uint key = keys + page * p.page_stride + (pos % p.block) * p.token_stride;
            value_at[lane] = key + p.kv_stride;
            float key_scale = 1.0;
            if (SCALED) {
                uint scale_at = scales + page * p.scales_page + pos % p.block;
                key_scale = SCALE(words, scale_at);
                value_scale = SCALE(words, scale_at + p.scales_kv);
            }
            for (uint c = 0; c < PIECES; c += AHEAD) {
                uvec4 next[AHEAD];
                [[unroll]] for (uint n = 0; n < AHEAD; ++n) next[n] = cache[key + min(c + n, PIECES - 1)];
                [[unroll]] for (uint n = 0; n < AHEAD; ++n) {
                    if (c + n >= PIECES) break;
                    vec4 part[QUADS];
                    [[unroll]] for (uint i = 0; i < QUADS; ++i) part[i] = quad(next[n], i);
                    [[unroll]] for (uint h = 0; h < HEADS; ++h) {
                        uint at = (h * PIECES + c + n) * QUADS;
                        float s = dot(part[0], query[at]);
                        [[unroll]] for (uint i = 1; i < QUADS; ++i) s += dot(part[i], query[at + i]);
                        score[h] += s;
                    }
                }
            }
            if (SCALED) {
                [[unroll]] for (uint h = 0; h < HEADS; ++h) score[h] *= key_scale;
            }
        }
        [[unroll]] for (uint h = 0; h < HEADS; ++h) {
            if (p.softcap > 0.0) score[h] = p.softcap * exact_tanh(score[h] / p.softcap);
            if (!seen) score[h] = -3.0e38;
            float s = subgroupMax(score[h]);
            if (subgroupElect()) highest[h * gl_NumSubgroups + gl_SubgroupID] = s;
        }
        workgroup_sync();
        float keep[HEADS];
        [[unroll]] for (uint h = 0; h < HEADS; ++h) {
            float new_top = top[h];
            for (uint i = 0; i < gl_NumSubgroups; ++i) {
                new_top = max(new_top, highest[h * gl_NumSubgroups + i]);
            }
            float e = seen ? exp(score[h] - new_top) : 0.0;
            keep[h] = exp(top[h] - new_top);
            top[h] = new_top;
            weight[h * WG + lane] = e * value_scale;
            float s = subgroupAdd(e);
            if (subgroupElect()) totals[h * gl_NumSubgroups + gl_SubgroupID] = s;
        }
        workgroup_sync();
        [[unroll]] for (uint h = 0; h < HEADS; ++h) {
            float s = totals[h * gl_NumSubgroups];
            for (uint i = 1; i < gl_NumSubgroups; ++i) s += totals[h * gl_NumSubgroups + i];
            sum[h] = sum[h] * keep[h] + s;
            [[unroll]] for (uint i = 0; i < QUADS; ++i) own[h * QUADS + i] *= keep[h];
        }
        uint n = min(WG, to - at);
        if (subset < SUBSETS) {
            for (uint j = subset; j < n; j += AHEAD * SUBSETS) {
                uvec4 next[AHEAD];
                [[unroll]] for (uint i = 0; i < AHEAD; ++i) {
                    next[i] = cache[value_at[min(j + i * SUBSETS, n - 1)] + piece];
                }
                [[unroll]] for (uint i = 0; i < AHEAD; ++i) {
                    if (j + i * SUBSETS >= n) break;
                    vec4 part[QUADS];
                    [[unroll]] for (uint v = 0; v < QUADS; ++v) part[v] = quad(next[i], v);
                    [[unroll]] for (uint h = 0; h < HEADS; ++h) {
                        float e = weight[h * WG + j + i * SUBSETS];
                        [[unroll]] for (uint v = 0; v < QUADS; ++v) own[h * QUADS + v] += e * part[v];
                    }
                }
            }
        }
        workgroup_sync();
    }
    [[unroll]] for (uint h = 0; h < HEADS; ++h) {
        [[unroll]] for (uint i = 0; i < QUADS; ++i) {
            for (uint n = 0; n < 4; ++n) sums[lane * EACH + 4 * i + n] = own[h * QUADS + i][n];
        }
        workgroup_sync();
        for (uint d = lane; d < DIM; d += WG) {
            float v = 0.0;
            for (uint s = 0; s < SUBSETS; ++s) v += sums[s * DIM + d];
            parts[out_at + h * out_step + d] = v;
        }
        if (lane == 0) {
            parts[out_at + h * out_step + DIM] = top[h];
            parts[out_at + h * out_step + DIM + 1] = sum[h];
        }
        workgroup_sync();
    }
}
