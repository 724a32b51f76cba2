// op: rms_norm. y = x·rsqrt(mean(x²) + eps)·(w + weight_offset), over the last
// dimension.
// x, y f32 [R, groups, D], w f32 [D]; rows strided, contiguous inside.
// Launch: one workgroup for each (group, row). Tolerance 2e-5: squares are
// summed in f32, lane by lane, then over the workgroup.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 1, scalar) readonly buffer W { float w[]; };
layout(set = 0, binding = 2, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(3)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint dim;
    uint x_at, x_stride;
    uint w_at;
    uint y_at, y_stride;
    float eps;
    float weight_offset;
} p;

void main() {
    uint g = gl_WorkGroupID.x;
    uint r = gl_WorkGroupID.y;
    if (r >= REAL_ROWS(p.rows)) return;
    uint from = p.x_at + r * p.x_stride + g * p.dim;
    uint to = p.y_at + r * p.y_stride + g * p.dim;
    float sum = 0.0;
    for (uint i = gl_LocalInvocationID.x; i < p.dim; i += WG) {
        sum += x[from + i] * x[from + i];
    }
    float scale = inversesqrt(workgroup_sum(sum) / float(p.dim) + p.eps);
    for (uint i = gl_LocalInvocationID.x; i < p.dim; i += WG) {
        y[to + i] = x[from + i] * scale * (w[p.w_at + i] + p.weight_offset);
    }
}
