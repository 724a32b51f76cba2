// op: rms_norm+rms_norm+rope+rope+kv_append. q' = rope(rms_norm(q)); the cache takes
// rope(rms_norm(k)) and v at the row's position. Norms are of heads.
// q, q' f32 [T, heads, D], k, v f32 [T, kv_heads, D], rows strided; norm weights f32
// [D]; table f32 [T, rotary_dim]; cache in pages, f32, f16, bf16 or, with D even,
// int8_kv, rounded to nearest even.
// Launch: one workgroup for each head of q, then of k (x), and row (y). Tolerance
// 2e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_16bit_storage : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"
#include "../common/stored.glsl"
#include "../common/scaled.glsl"
#include "../common/round.glsl"
#include "../common/divide.glsl"
#include "../common/rope.glsl"

layout(constant_id = 4) const uint DIM = 64;

layout(set = 0, binding = 0, scalar) readonly buffer Q { float q[]; };
layout(set = 0, binding = 1, scalar) readonly buffer K { float k[]; };
layout(set = 0, binding = 2, scalar) readonly buffer V { float v[]; };
layout(set = 0, binding = 3, scalar) readonly buffer QWeight { float q_weight[]; };
layout(set = 0, binding = 4, scalar) readonly buffer KWeight { float k_weight[]; };
layout(set = 0, binding = 5, scalar) readonly buffer Table { float table[]; };
layout(set = 0, binding = 6, scalar) writeonly buffer Y { float y[]; };
layout(set = 0, binding = 7, scalar) writeonly buffer Cache16 { uint16_t cache16[]; };
layout(set = 0, binding = 7, scalar) writeonly buffer Cache32 { float cache32[]; };
STEP_BUFFER(8)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint heads;
    uint first, half_dim, interleaved;
    uint q_at, q_stride;
    uint k_at, k_stride;
    uint v_at, v_stride;
    uint q_weight_at, k_weight_at;
    uint table_at, table_stride;
    uint y_at, y_stride;
    uint cache_at, page_stride, kv_stride, head_stride, token_stride;
    // The first scale, in f16 numbers.
    uint scales_at;
    uint block, pages;
    uint positions, row_span;
    uint pages_at, blocks;
    float eps;
    float weight_offset;
} p;

#include "../common/store.glsl"
#include "../common/store_scaled.glsl"

shared float normed[DIM];
// Elements of a lane: neighbours in pairs where they are stored so.
const uint EACH = SCALED ? (DIM / 2 + WG - 1) / WG * 2 : (DIM + WG - 1) / WG;
#define NORMED(i) normed[i]

uint element(uint n) {
    uint lane = gl_LocalInvocationID.x;
    return SCALED ? 2 * (lane + n / 2 * WG) + n % 2 : lane + n * WG;
}

void main() {
    uint t = gl_WorkGroupID.y;
    if (t >= REAL_ROWS(p.rows)) return;
    bool of_q = gl_WorkGroupID.x < p.heads;
    uint head = of_q ? gl_WorkGroupID.x : gl_WorkGroupID.x - p.heads;
    uint from = of_q ? p.q_at + t * p.q_stride + head * DIM : p.k_at + t * p.k_stride + head * DIM;
    // What comes from far is asked for at once.
    float weight[EACH];
    float value[EACH];
    float sum = 0.0;
    [[unroll]] for (uint n = 0; n < EACH; ++n) {
        uint i = min(element(n), DIM - 1);
        float x = of_q ? q[from + i] : k[from + i];
        weight[n] = of_q ? q_weight[p.q_weight_at + i] : k_weight[p.k_weight_at + i];
        value[n] = of_q ? 0.0 : v[p.v_at + t * p.v_stride + head * DIM + i];
        if (element(n) < DIM) {
            normed[i] = x;
            sum += x * x;
        }
    }
    uint position = meta[p.positions + t];
    uint page = meta[p.pages_at + meta[p.row_span + t] * p.blocks + position / p.block];
    float scale = inversesqrt(workgroup_sum(sum) / float(DIM) + p.eps);
    [[unroll]] for (uint n = 0; n < EACH; ++n) {
        uint i = element(n);
        if (i < DIM) normed[i] *= scale * (weight[n] + p.weight_offset);
    }
    workgroup_sync();
    // A row without a page is the runtime's mistake; it must not be written over
    // another sequence.
    if (!of_q && page >= p.pages) return;
    uint turn = p.table_at + t * p.table_stride;
    uint entry = p.cache_at + page * p.page_stride + head * p.head_stride
        + (position % p.block) * p.token_stride;
    float key[EACH];
    [[unroll]] for (uint n = 0; n < EACH; ++n) {
        uint i = element(n);
        key[n] = 0.0;
        if (i >= DIM) continue;
        float x;
        ROTATED(x, i, turn, NORMED)
        if (of_q) {
            y[p.y_at + t * p.y_stride + head * DIM + i] = x;
        } else if (SCALED) {
            key[n] = x;
        } else {
            store(entry + i, x);
            store(entry + p.kv_stride + i, value[n]);
        }
    }
    if (!SCALED || of_q) return;
    vec2 most = vec2(0.0);
    // What stands for elements past the last is the last value.
    [[unroll]] for (uint n = 0; n < EACH; ++n) most = max(most, abs(vec2(key[n], value[n])));
    uint scale_at = p.scales_at + page * p.page_stride / 2 + head * p.block + position % p.block;
    bool first = gl_LocalInvocationID.x == 0;
    float key_scale = store_scale(scale_at, workgroup_max(most.x), first);
    float value_scale = store_scale(scale_at + p.kv_stride / 2, workgroup_max(most.y), first);
    [[unroll]] for (uint n = 0; n + 1 < EACH; n += 2) {
        uint i = element(n);
        if (i >= DIM) continue;
        store_pair(entry + i, vec2(key[n], key[n + 1]), key_scale);
        store_pair(entry + p.kv_stride + i, vec2(value[n], value[n + 1]), value_scale);
    }
}
