// op: argmax. ids[r] = the lowest index of the largest logit; NaN is never the
// largest, and a row with nothing above -inf gives 0xffffffff.
// logits f32 [R, V], rows strided; ids u32 [R].
// Launch: one workgroup for each row (y). Exact.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 1, scalar) writeonly buffer Ids { uint ids[]; };
STEP_BUFFER(2)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint len;
    uint x_at, x_stride;
    uint ids_at, ids_stride;
} p;

shared uint lowest[WG];

// Logits that a lane loads before it looks at the first.
const uint AHEAD = 8;

#define NONE uintBitsToFloat(0xff800000u)

void main() {
    uint r = gl_WorkGroupID.y;
    if (r >= REAL_ROWS(p.rows)) return;
    uint lane = gl_LocalInvocationID.x;
    float best = NONE;
    uint id = 0xffffffffu;
    for (uint i = lane; i < p.len; i += AHEAD * WG) {
        float v[AHEAD];
        [[unroll]] for (uint n = 0; n < AHEAD; ++n) {
            v[n] = x[p.x_at + r * p.x_stride + min(i + n * WG, p.len - 1)];
        }
        // What is past the end repeats the last, which its own lane meets, too.
        [[unroll]] for (uint n = 0; n < AHEAD; ++n) {
            if (v[n] > best) {
                best = v[n];
                id = min(i + n * WG, p.len - 1);
            }
        }
    }
    float top = workgroup_max(best);
    uint candidate = subgroupMin(best == top ? id : 0xffffffffu);
    if (!ONE_SUBGROUP) {
        if (subgroupElect()) lowest[gl_SubgroupID] = candidate;
        barrier();
        for (uint i = 0; i < gl_NumSubgroups; ++i) candidate = min(candidate, lowest[i]);
    }
    if (lane == 0) ids[p.ids_at + r * p.ids_stride] = candidate;
}
