// The first half of `flash.comp`: q·scale as the sum of two f16 numbers.
// q f32 [T, E], rows strided, E a multiple of 8; high and low f16 [T, E] in pieces of
// eight.
// Launch: a lane for each piece (x) of each row (y), rows up to a whole tile: those
// past the last become zeros.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/round.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer Q { float q[]; };
layout(set = 0, binding = 1, scalar) writeonly buffer Halves { uvec4 halves[]; };
STEP_BUFFER(2)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint pieces;
    uint q_at, q_stride;
    uint high_at, low_at;
    float scale;
} p;

// Rows of the largest tile.
const uint TILE_ROWS = 256;

void main() {
    uint r = gl_WorkGroupID.y;
    uint i = gl_GlobalInvocationID.x;
    uint rows = REAL_ROWS(p.rows);
    if (r >= (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS || i >= p.pieces) return;
    uint to = r * p.pieces + i;
    if (r >= rows) {
        halves[p.high_at + to] = uvec4(0);
        halves[p.low_at + to] = uvec4(0);
        return;
    }
    uint at = p.q_at + r * p.q_stride + 8 * i;
    uvec4 high;
    uvec4 low;
    for (uint n = 0; n < 4; ++n) {
        vec2 v = p.scale * vec2(q[at + 2 * n], q[at + 2 * n + 1]);
        // Cut off by bits: a conversion there and back may be left out.
        vec2 top = uintBitsToFloat(floatBitsToUint(v) & 0xffffe000u);
        high[n] = to_f16(top.x) | (to_f16(top.y) << 16);
        vec2 rest = v - top;
        low[n] = to_f16(rest.x) | (to_f16(rest.y) << 16);
    }
    halves[p.high_at + to] = high;
    halves[p.low_at + to] = low;
}
