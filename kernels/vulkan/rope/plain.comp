// op: rope. In each head, with half = rotary_dim / 2 and i < half:
// y[i] = x[i]·cos[i] − x[i + half]·sin[i], y[i + half] = x[i + half]·cos[i] +
// x[i]·sin[i]; elements past rotary_dim are copied.
// x, y f32 [T, heads, D], table f32 [T, rotary_dim] (cos then sin); rows strided.
// Launch: x over the elements of a row, y over rows. Tolerance 1e-6.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Table { float table[]; };
layout(set = 0, binding = 2, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(3)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint len, dim, half_dim;
    uint x_at, x_stride;
    uint table_at, table_stride;
    uint y_at, y_stride;
} p;

void main() {
    uint i = gl_GlobalInvocationID.x;
    uint t = gl_WorkGroupID.y;
    if (i >= p.len || t >= REAL_ROWS(p.rows)) return;
    uint d = i % p.dim;
    uint from = p.x_at + t * p.x_stride + i;
    uint turn = p.table_at + t * p.table_stride;
    float v = x[from];
    if (d < p.half_dim) {
        v = v * table[turn + d] - x[from + p.half_dim] * table[turn + p.half_dim + d];
    } else if (d < 2 * p.half_dim) {
        v = v * table[turn + d - p.half_dim] + x[from - p.half_dim] * table[turn + d];
    }
    y[p.y_at + t * p.y_stride + i] = v;
}
