// op: embed. y[t] = w[token_ids[t]].
// w [V, H] f32, f16 or bf16, row-major; y f32 [T, H], rows strided.
// Launch: x over H, y over rows. One dispatch for each part of the table that a
// binding can hold: tokens outside `first..first+count` are another's. Exact.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/stored.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer W { uint w[]; };
layout(set = 0, binding = 1, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(2)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint len;
    uint w_at;
    uint y_at, y_stride;
    uint token_ids;
    uint first, count;
} p;

void main() {
    uint i = gl_GlobalInvocationID.x;
    uint t = gl_WorkGroupID.y;
    if (i >= p.len || t >= REAL_ROWS(p.rows)) return;
    uint id = meta[p.token_ids + t];
    if (id < p.first || id - p.first >= p.count) return;
    uint e = p.w_at + (id - p.first) * p.len + i;
    y[p.y_at + t * p.y_stride + i] = STORED(w, e);
}
