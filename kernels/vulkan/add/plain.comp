// op: add. y = a + b.
// a, b, y f32 [R, len], rows strided, contiguous inside.
// Launch: x over the elements of a row, y over rows. Exact.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer A { float a[]; };
layout(set = 0, binding = 1, scalar) readonly buffer B { float b[]; };
layout(set = 0, binding = 2, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(3)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint len;
    uint a_at, a_stride;
    uint b_at, b_stride;
    uint y_at, y_stride;
} p;

void main() {
    uint i = gl_GlobalInvocationID.x;
    uint r = gl_WorkGroupID.y;
    if (i >= p.len || r >= REAL_ROWS(p.rows)) return;
    y[p.y_at + r * p.y_stride + i] = a[p.a_at + r * p.a_stride + i] + b[p.b_at + r * p.b_stride + i];
}
