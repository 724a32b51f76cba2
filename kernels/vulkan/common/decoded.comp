// Matrices of any scheme, decoded and rounded to bf16 or f16 into the workspace, for
// products of so many rows that each weight would be decoded many times.
// w [N, K] f32, f16 or bf16 row-major or a block scheme in the layout `grouped`, K a
// multiple of 32; decoded u16 [N, K] in pieces of eight.
// Launch: a lane for each piece (x) of each row, or of as many rows as a workgroup has
// lanes for (y).
#version 460
#extension GL_GOOGLE_include_directive : require
#include "base.glsl"
#include "stored.glsl"
#include "blocks.glsl"

layout(constant_id = 4) const bool TO_BF16 = true;
#include "sixteen.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer W { uint w[]; };
layout(set = 0, binding = 0, scalar) readonly buffer W4 { uvec4 w4[]; };
layout(set = 0, binding = 1, scalar) writeonly buffer Decoded { uvec4 decoded[]; };

layout(push_constant, scalar) uniform Push {
    uint n, k;
    uint w_at, w_stride;
    uint decoded_at;
} p;

GROUP_READER(read_w, w, w4)
PLAIN_SIXTEEN(plain_w, w4)

void main() {
    uint pieces = p.k / 8;
    uint each = max(WG / pieces, 1);
    uint i = gl_GlobalInvocationID.x;
    uint r = gl_WorkGroupID.y;
    if (each > 1) {
        i = gl_LocalInvocationID.x % pieces;
        r = r * each + gl_LocalInvocationID.x / pieces;
        if (gl_LocalInvocationID.x >= each * pieces) return;
    }
    if (i >= pieces || r >= p.n) return;
    uint row = p.w_at + r * p.w_stride;
    Sixteen s;
    if (IN_BLOCKS) {
        s = half_of(read_w(row, p.k / 32, i / 4), (i & 2u) != 0);
    } else {
        s = plain_w(row + i / 2 * 16);
    }
    uvec4 piece = (i & 1u) == 0 ? rounded_eight(s, 0) : rounded_eight(s, 1);
    decoded[p.decoded_at + r * pieces + i] = piece;
}
