// The first of the lists for products of experts with many rows: the vectors of y
// (row t, place j, counted t·k + j) by expert, ascending for each.
// chosen u32 [T, k], rows strided; starts u32 [experts + 1], order u32 [T·k].
// Launch: a lane for each expert (x), which counts those of the experts before its own,
// then puts its own in order.
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

// Choices that are looked at together.
const uint PART = 1024;
shared uint choices[PART];

void load(uint from, uint all) {
    barrier();
    for (uint i = gl_LocalInvocationID.x; i < PART; i += WG) {
        uint v = from + i;
        // What is not there is no expert's.
        choices[i] = 0xffffffffu;
        if (v < all) choices[i] = chosen[p.chosen_at + v / p.vectors * p.chosen_stride + v % p.vectors];
    }
    barrier();
}

void main() {
    uint expert = gl_GlobalInvocationID.x;
    uint all = REAL_ROWS(p.rows) * p.vectors;
    uint before = 0;
    for (uint from = 0; from < all; from += PART) {
        load(from, all);
        for (uint i = 0; i < PART; ++i) before += uint(choices[i] < expert);
    }
    if (expert <= p.experts) lists[p.starts_at + expert] = before;
    uint to = p.order_at + before;
    for (uint from = 0; from < all; from += PART) {
        load(from, all);
        for (uint i = 0; i < PART; ++i) {
            if (choices[i] == expert && expert < p.experts) {
                lists[to] = from + i;
                ++to;
            }
        }
    }
}
