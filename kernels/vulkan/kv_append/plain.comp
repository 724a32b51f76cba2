// op: kv_append. Stores each row's keys and values at its position.
// k, v f32 [T, kv_heads, D], rows strided; cache in pages, f32, f16, bf16 or, with D
// even, int8_kv, rounded to nearest even. Row t of span s at position q goes to token
// q mod block of page table[s][q / block].
// Launch: x over the elements of a row, y over rows; in int8_kv one workgroup for
// each head of k, then of v (x), and row (y). Exact.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_16bit_storage : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"
#include "../common/stored.glsl"
#include "../common/scaled.glsl"
#include "../common/round.glsl"
#include "../common/divide.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer K { float k[]; };
layout(set = 0, binding = 1, scalar) readonly buffer V { float v[]; };
layout(set = 0, binding = 2, scalar) writeonly buffer Cache16 { uint16_t cache16[]; };
layout(set = 0, binding = 2, scalar) writeonly buffer Cache32 { float cache32[]; };
STEP_BUFFER(3)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint len, dim;
    uint k_at, k_stride;
    uint v_at, v_stride;
    uint cache_at, page_stride, kv_stride, head_stride, token_stride;
    // The first scale, in f16 numbers.
    uint scales_at;
    uint block, pages;
    uint positions, row_span;
    uint table, blocks;
} p;

#include "../common/store.glsl"
#include "../common/store_scaled.glsl"

void main() {
    uint t = gl_WorkGroupID.y;
    if (t >= REAL_ROWS(p.rows)) return;
    uint position = meta[p.positions + t];
    uint entry = p.table + meta[p.row_span + t] * p.blocks;
    uint page = meta[entry + position / p.block];
    // A row without a page is the runtime's mistake; it must not be written over
    // another sequence.
    if (page >= p.pages) return;
    if (SCALED) {
        uint lane = gl_LocalInvocationID.x;
        uint heads = p.len / p.dim;
        bool of_k = gl_WorkGroupID.x < heads;
        uint head = of_k ? gl_WorkGroupID.x : gl_WorkGroupID.x - heads;
        uint from = head * p.dim + (of_k ? p.k_at + t * p.k_stride : p.v_at + t * p.v_stride);
        float most = 0.0;
        for (uint i = lane; i < p.dim; i += WG) most = max(most, abs(of_k ? k[from + i] : v[from + i]));
        uint plane = page * p.page_stride + (of_k ? 0 : p.kv_stride);
        uint scale_at = p.scales_at + plane / 2 + head * p.block + position % p.block;
        float scale = store_scale(scale_at, workgroup_max(most), lane == 0);
        uint to = p.cache_at + plane + head * p.head_stride + (position % p.block) * p.token_stride;
        for (uint i = 2 * lane; i < p.dim; i += 2 * WG) {
            vec2 x = of_k ? vec2(k[from + i], k[from + i + 1]) : vec2(v[from + i], v[from + i + 1]);
            store_pair(to + i, x, scale);
        }
        return;
    }
    uint i = gl_GlobalInvocationID.x;
    if (i >= p.len) return;
    uint at = p.cache_at + page * p.page_stride + (i / p.dim) * p.head_stride
        + (position % p.block) * p.token_stride + i % p.dim;
    store(at, k[p.k_at + t * p.k_stride + i]);
    store(at + p.kv_stride, v[p.v_at + t * p.v_stride + i]);
}
