// op: rotate. x·scales, then in each group of GROUP elements `rounds` times GROUP/2
// Givens rotations: with (i, j) the t-th pair of round r and θ its angle, xᵢ' =
// xᵢ·cos θ + xⱼ·sin θ, xⱼ' = xⱼ·cos θ − xᵢ·sin θ.
// x, y f32 [R, …, K], theta f32 [rounds·K/2], pairs f32 [rounds·K] (whole numbers,
// local to their group), scales f32 [K]. The maths: ParoQuant.
// Launch: one workgroup for each group (x) of a row (y); the pairs of a round are
// disjoint, so lanes take them in any order. Tolerance 2e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"
#include "../common/angle.glsl"

layout(constant_id = 3) const uint GROUP = 128;

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Theta { float theta[]; };
layout(set = 0, binding = 2, scalar) readonly buffer Pairs { float pairs[]; };
layout(set = 0, binding = 3, scalar) readonly buffer Scales { float scales[]; };
layout(set = 0, binding = 4, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(5)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint width, rounds;
    uint x_at, x_stride;
    uint theta_at, pairs_at, scales_at;
    uint y_at, y_stride;
} p;

shared float turned[GROUP];

void main() {
    uint r = gl_WorkGroupID.y;
    if (r >= REAL_ROWS(p.rows)) return;
    uint lane = gl_LocalInvocationID.x;
    uint first = gl_WorkGroupID.x * GROUP;
    // The row may hold several vectors of the rotation's width.
    uint local = first % p.width;
    for (uint i = lane; i < GROUP; i += WG) {
        turned[i] = x[p.x_at + r * p.x_stride + first + i] * scales[p.scales_at + local + i];
    }
    workgroup_sync();
    for (uint round = 0; round < p.rounds; ++round) {
        for (uint t = lane; t < GROUP / 2; t += WG) {
            uint at = round * p.width + local + 2 * t;
            // The loader refuses pairs outside of their group.
            uint i = min(uint(pairs[p.pairs_at + at]), GROUP - 1);
            uint j = min(uint(pairs[p.pairs_at + at + 1]), GROUP - 1);
            float s, c;
            sine_cosine(theta[p.theta_at + at / 2], s, c);
            float a = turned[i];
            float b = turned[j];
            turned[i] = a * c + b * s;
            turned[j] = b * c - a * s;
        }
        workgroup_sync();
    }
    for (uint i = lane; i < GROUP; i += WG) {
        y[p.y_at + r * p.y_stride + first + i] = turned[i];
    }
}
