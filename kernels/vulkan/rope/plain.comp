// op: rope. In each head, for pair i < rotary_dim / 2 of the elements (a, b):
// y[a] = x[a]·cos[i] − x[b]·sin[i], y[b] = x[b]·cos[i] + x[a]·sin[i]. Pair i is
// (first + i, first + i + rotary_dim/2) or, interleaved, (first + 2i, first + 2i +
// 1); other elements are copied.
// x, y f32 [T, heads, D], table f32 [T, rotary_dim] (cos then sin); rows strided.
// Launch: x over the elements of a row, y over rows. Tolerance 1e-6.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/rope.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Table { float table[]; };
layout(set = 0, binding = 2, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(3)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint len, dim, first, half_dim, interleaved;
    uint x_at, x_stride;
    uint table_at, table_stride;
    uint y_at, y_stride;
} p;

#define X_AT(i) x[head + (i)]

void main() {
    uint i = gl_GlobalInvocationID.x;
    uint t = gl_WorkGroupID.y;
    if (i >= p.len || t >= REAL_ROWS(p.rows)) return;
    uint d = i % p.dim;
    uint head = p.x_at + t * p.x_stride + i - d;
    float v;
    ROTATED(v, d, p.table_at + t * p.table_stride, X_AT)
    y[p.y_at + t * p.y_stride + i] = v;
}
