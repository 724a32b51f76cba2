// The first half of products by cooperative matrices: x rounded to 16 bits, to
// nearest, ties to even.
// x f32 [R, K], rows strided, K a multiple of 8; rounded u16 [R, K] in pieces of
// eight.
// Launch: a lane for each piece (x) of each row (y), rows up to a whole tile: those
// past the last become zeros.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "base.glsl"
#include "round.glsl"

layout(constant_id = 3) const uint SCHEME = F16;

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 0, scalar) readonly buffer X4 { vec4 x4[]; };
layout(set = 0, binding = 1, scalar) writeonly buffer Rounded { uvec4 rounded[]; };
STEP_BUFFER(2)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint pieces;
    uint x_at, x_stride;
    uint rounded_at;
    uint aligned;
} p;

// Rows of the largest tile.
const uint TILE_ROWS = 256;

uint pair(float a, float b) {
    return SCHEME == F16 ? to_f16(a) | (to_f16(b) << 16) : to_bf16(a) | (to_bf16(b) << 16);
}

void main() {
    uint r = gl_WorkGroupID.y;
    uint i = gl_GlobalInvocationID.x;
    uint rows = REAL_ROWS(p.rows);
    if (r >= (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS || i >= p.pieces) return;
    uint to = p.rounded_at + r * p.pieces + i;
    if (r >= rows) {
        rounded[to] = uvec4(0);
        return;
    }
    uint at = p.x_at + r * p.x_stride + 8 * i;
    vec4 a;
    vec4 b;
    if (p.aligned != 0) {
        a = x4[at / 4];
        b = x4[at / 4 + 1];
    } else {
        a = vec4(x[at], x[at + 1], x[at + 2], x[at + 3]);
        b = vec4(x[at + 4], x[at + 5], x[at + 6], x[at + 7]);
    }
    rounded[to] = uvec4(pair(a.x, a.y), pair(a.z, a.w), pair(b.x, b.y), pair(b.z, b.w));
}
