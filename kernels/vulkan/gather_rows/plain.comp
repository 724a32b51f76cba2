// op: gather_rows. y[l] = x[logit_rows[l]].
// x f32 [T, len], y f32 [L, len], rows strided, contiguous inside.
// Launch: x over the elements of a row, y over gathered rows. Exact.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 1, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(2)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint len;
    uint x_at, x_stride;
    uint y_at, y_stride;
    uint logit_rows;
} p;

void main() {
    uint i = gl_GlobalInvocationID.x;
    uint l = gl_WorkGroupID.y;
    if (i >= p.len || l >= REAL_ROWS(p.rows)) return;
    uint r = meta[p.logit_rows + l];
    y[p.y_at + l * p.y_stride + i] = x[p.x_at + r * p.x_stride + i];
}
