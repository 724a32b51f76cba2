// op: attention. o = softmax(scale·q·kᵀ)·v over the positions that a row sees:
// (p − window, p], or [0, p] without a window. A soft cap makes scores s
// cap·tanh(s/cap); a sink joins the softmax as a score whose value is zero.
// q, o f32 [T, heads, D], rows strided; cache in pages, f32, f16, bf16 or
// int8_kv; head h reads kv head h / (heads / kv_heads); sinks f32 [heads]?.
// Launch: one workgroup for each (head, row). Tolerance 5e-5: a shader's exp may
// be off by 3 + 2·|x| units in the last place.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"
#include "../common/stored.glsl"
#include "../common/scaled.glsl"
#include "../common/tanh.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer Q { float q[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Cache { uint cache[]; };
layout(set = 0, binding = 2, scalar) readonly buffer Sinks { float sinks[]; };
layout(set = 0, binding = 3, scalar) writeonly buffer O { float o[]; };
STEP_BUFFER(4)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint group;
    uint q_at, q_stride;
    uint cache_at, page_stride, kv_stride, head_stride, token_stride;
    // The first scale, in f16 numbers.
    uint scales_at;
    uint sinks_at, has_sinks;
    uint o_at, o_stride;
    uint block;
    uint positions, row_span;
    uint table, blocks;
    // 0 for none.
    uint window;
    uint aligned;
    float scale, softcap;
} p;

#include "../common/attend.glsl"

void main() {
    uint head = gl_WorkGroupID.x;
    uint t = gl_WorkGroupID.y;
    if (t >= REAL_ROWS(p.rows)) return;
    uint lane = gl_LocalInvocationID.x;
    uint position = meta[p.positions + t];
    uint first = p.window != 0 && position + 1 > p.window ? position + 1 - p.window : 0;
    uint table = p.table + meta[p.row_span + t] * p.blocks;
    uint keys = p.cache_at + (head / p.group) * p.head_stride;
    uint scales = p.scales_at + (head / p.group) * p.block;
    for (uint d = lane; d < DIM; d += WG) {
        query[d] = q[p.q_at + t * p.q_stride + head * DIM + d];
    }
    float sink = p.has_sinks != 0 ? sinks[p.sinks_at + head] : -3.0e38;
    float own[OWN];
    attend(keys, scales, table, first, position, sink, p.has_sinks != 0 ? 1.0 : 0.0, own);
    for (uint i = 0; i < OWN; ++i) {
        uint d = lane + i * WG;
        if (d < DIM) o[p.o_at + t * p.o_stride + head * DIM + d] = own[i];
    }
}
