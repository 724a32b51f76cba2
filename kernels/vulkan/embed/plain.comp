// op: embed. y[t] = w[token_ids[t]].
// w [V, H] f32, f16 or bf16 row-major or a block scheme in the layout `grouped`;
// y f32 [T, H], rows strided.
// Launch: x over the elements of a row, or over its groups of 32, y over rows. One
// dispatch for each part of the table that a binding can hold: tokens outside
// `first..first+count` are another's. Exact, but that a scale's product may be
// added to its low end in one rounding.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/stored.glsl"
#include "../common/blocks.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer W { uint w[]; };
layout(set = 0, binding = 0, scalar) readonly buffer W4 { uvec4 w4[]; };
layout(set = 0, binding = 1, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(2)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint len;
    uint w_at, w_stride;
    uint y_at, y_stride;
    uint token_ids;
    uint first, count;
} p;

GROUP_READER(read_w, w, w4)

void main() {
    uint i = gl_GlobalInvocationID.x;
    uint t = gl_WorkGroupID.y;
    uint items = IN_BLOCKS ? p.len / 32 : p.len;
    if (i >= items || t >= REAL_ROWS(p.rows)) return;
    uint id = meta[p.token_ids + t];
    if (id < p.first || id - p.first >= p.count) return;
    uint row = p.w_at + (id - p.first) * p.w_stride;
    uint to = p.y_at + t * p.y_stride;
    if (IN_BLOCKS) {
        Group b = read_w(row, items, i);
        to += 32 * i;
        for (uint q = 0; q < 8; ++q) {
            vec4 v = quad_values(b, q);
            y[to + 4 * q] = v.x;
            y[to + 4 * q + 1] = v.y;
            y[to + 4 * q + 2] = v.z;
            y[to + 4 * q + 3] = v.w;
        }
    } else {
        y[to + i] = STORED(w, row + i);
    }
}
