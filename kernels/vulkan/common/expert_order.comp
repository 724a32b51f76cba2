// The first of the lists for products of experts with many rows: the vectors of y
// (row t, place j, counted t·k + j) by expert, ascending for each.
// chosen u32 [T, k], rows strided; starts u32 [experts + 1], order u32 [T·k].
// Launch: a workgroup for each expert (x) and one more, which counts the vectors of the
// experts before its own, then puts its own in order, a few of each lane at a time.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "base.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer Chosen { uint chosen[]; };
layout(set = 0, binding = 1, scalar) writeonly buffer Lists { uint lists[]; };
STEP_BUFFER(2)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint vectors, experts;
    uint chosen_at, chosen_stride;
    uint starts_at, order_at;
} p;

// Vectors beside each other that a lane looks at together.
const uint EACH = 8;
shared uint counts[WG];

uint choice(uint v) {
    return chosen[p.chosen_at + v / p.vectors * p.chosen_stride + v % p.vectors];
}

// The sum of what lanes before this one bring, and (y) of all.
uvec2 sum_before(uint x) {
    uint own = subgroupAdd(x);
    uint before = subgroupExclusiveAdd(x);
    if (subgroupElect()) counts[gl_SubgroupID] = own;
    barrier();
    uint all = 0;
    for (uint i = 0; i < gl_NumSubgroups; ++i) {
        if (i < gl_SubgroupID) before += counts[i];
        all += counts[i];
    }
    barrier();
    return uvec2(before, all);
}

void main() {
    uint lane = gl_LocalInvocationID.x;
    uint expert = gl_WorkGroupID.x;
    uint all = REAL_ROWS(p.rows) * p.vectors;
    uint less = 0;
    for (uint v = lane; v < all; v += WG) less += uint(choice(v) < expert);
    uint before = sum_before(less).y;
    if (lane == 0) lists[p.starts_at + expert] = before;
    if (expert >= p.experts) return;
    uint to = p.order_at + before;
    for (uint from = 0; from < all; from += WG * EACH) {
        uint first = from + lane * EACH;
        uint own = 0;
        [[unroll]] for (uint e = 0; e < EACH; ++e) {
            if (first + e < all && choice(first + e) == expert) own |= 1u << e;
        }
        uvec2 others = sum_before(uint(bitCount(own)));
        uint at = to + others.x;
        for (; own != 0; own &= own - 1) {
            lists[at] = first + uint(findLSB(own));
            ++at;
        }
        to += others.y;
    }
}
