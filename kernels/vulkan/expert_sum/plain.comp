// op: expert_sum. y[t] = Σⱼ weights[t, j]·x[t, j], j ascending.
// x f32 [T, k, H], weights f32 [T, k], y f32 [T, H]; rows strided.
// Launch: x over H, y over rows. Tolerance 2e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Weights { float weights[]; };
layout(set = 0, binding = 2, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(3)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint len, experts;
    uint x_at, x_stride;
    uint weights_at, weights_stride;
    uint y_at, y_stride;
} p;

void main() {
    uint i = gl_GlobalInvocationID.x;
    uint t = gl_WorkGroupID.y;
    if (i >= p.len || t >= REAL_ROWS(p.rows)) return;
    float sum = 0.0;
    for (uint j = 0; j < p.experts; ++j) {
        sum += weights[p.weights_at + t * p.weights_stride + j] * x[p.x_at + t * p.x_stride + j * p.len + i];
    }
    y[p.y_at + t * p.y_stride + i] = sum;
}
