// What workgroups that multiply as one read of experts' rows: x rounded to bf16, to
// nearest, ties to even, in the experts' order, so that a tile's rows lie together.
// x f32 [T, k, K] or [T, K], rows strided, K a multiple of 8; order u32 [T·k] of
// `expert_order.comp`; gathered u16 [T·k, K] in pieces of eight.
// Launch: a lane for each piece (x) of each vector (y).
#version 460
#extension GL_GOOGLE_include_directive : require
#include "base.glsl"
#include "round.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 0, scalar) readonly buffer X4 { vec4 x4[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Lists { uint lists[]; };
layout(set = 0, binding = 2, scalar) writeonly buffer Gathered { uvec4 gathered[]; };
STEP_BUFFER(3)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint vectors;
    uint pieces;
    // Elements from a vector of a row of x to the next; 0 if they share one.
    uint x_at, x_stride, vector_stride;
    uint order_at;
    uint gathered_at;
    uint aligned;
} p;

uint pair(float a, float b) {
    return to_bf16(a) | (to_bf16(b) << 16);
}

void main() {
    uint i = gl_GlobalInvocationID.x;
    uint place = gl_WorkGroupID.y;
    if (i >= p.pieces || place >= REAL_ROWS(p.rows) * p.vectors) return;
    uint v = lists[p.order_at + place];
    uint at = p.x_at + v / p.vectors * p.x_stride + v % p.vectors * p.vector_stride + 8 * i;
    vec4 a;
    vec4 b;
    if (p.aligned != 0) {
        a = x4[at / 4];
        b = x4[at / 4 + 1];
    } else {
        a = vec4(x[at], x[at + 1], x[at + 2], x[at + 3]);
        b = vec4(x[at + 4], x[at + 5], x[at + 6], x[at + 7]);
    }
    uvec4 piece = uvec4(pair(a.x, a.y), pair(a.z, a.w), pair(b.x, b.y), pair(b.z, b.w));
    gathered[p.gathered_at + place * p.pieces + i] = piece;
}
