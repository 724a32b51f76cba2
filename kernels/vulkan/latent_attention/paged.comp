// op: latent_attention. For each head, o = softmax(scale·(q_latent·c + q_rope·k))·c
// over the positions [0, p] of a row at p.
// q_latent, o f32 [T, heads, L], q_rope f32 [T, heads, R], rows strided; cache in
// pages of vectors c, k, f32, f16 or bf16. The maths: DeepSeek-AI 2024,
// "DeepSeek-V2", section 2.1, with the up-projections absorbed.
// Launch: one workgroup for each (head, row). Tolerance 5e-5, as attention.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"
#include "../common/stored.glsl"
#include "../common/scaled.glsl"
#include "../common/tanh.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer Latent { float q_latent[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Turned { float q_rope[]; };
layout(set = 0, binding = 2, scalar) readonly buffer Cache { uint cache[]; };
layout(set = 0, binding = 3, scalar) writeonly buffer O { float o[]; };
STEP_BUFFER(4)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint latent_at, latent_stride;
    uint rope_at, rope_stride;
    uint cache_at, page_stride, token_stride;
    // A value is the first part of its key.
    uint kv_stride;
    uint o_at, o_stride;
    uint block;
    uint positions, row_span;
    uint table, blocks;
    uint aligned;
    float scale, softcap;
} p;

#include "../common/attend.glsl"

void main() {
    uint head = gl_WorkGroupID.x;
    uint t = gl_WorkGroupID.y;
    if (t >= REAL_ROWS(p.rows)) return;
    uint lane = gl_LocalInvocationID.x;
    const uint TURNED = DIM - VALUE_DIM;
    for (uint d = lane; d < VALUE_DIM; d += WG) {
        query[d] = q_latent[p.latent_at + t * p.latent_stride + head * VALUE_DIM + d];
    }
    for (uint d = lane; d < TURNED; d += WG) {
        query[VALUE_DIM + d] = q_rope[p.rope_at + t * p.rope_stride + head * TURNED + d];
    }
    float own[OWN];
    uint table = p.table + meta[p.row_span + t] * p.blocks;
    attend(p.cache_at, 0, table, 0, meta[p.positions + t], -3.0e38, 0.0, own);
    for (uint i = 0; i < OWN; ++i) {
        uint d = lane + i * WG;
        if (d < VALUE_DIM) o[p.o_at + t * p.o_stride + head * VALUE_DIM + d] = own[i];
    }
}
