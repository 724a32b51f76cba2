// op: add+rms_norm. h = a + b, y = h·rsqrt(mean(h²) + eps)·(w + weight_offset).
// a, b, h, y f32 [R, D], w f32 [D]; rows strided. Both h and y are outputs.
// Launch: one workgroup for each row (y). A lane keeps its elements in registers
// where they are few, so that its loads do not wait for each other, and otherwise
// reads again what it wrote itself.
// Tolerance 2e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"

// Elements of a lane, or 0 for many.
layout(constant_id = 3) const uint KEPT = 0;

layout(set = 0, binding = 0, scalar) readonly buffer A { float a[]; };
layout(set = 0, binding = 1, scalar) readonly buffer B { float b[]; };
layout(set = 0, binding = 2, scalar) readonly buffer W { float w[]; };
layout(set = 0, binding = 3, scalar) buffer H { float h[]; };
layout(set = 0, binding = 4, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(5)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint dim;
    uint a_at, a_stride;
    uint b_at, b_stride;
    uint w_at;
    uint h_at, h_stride;
    uint y_at, y_stride;
    float eps;
    float weight_offset;
} p;

void main() {
    uint r = gl_WorkGroupID.y;
    if (r >= REAL_ROWS(p.rows)) return;
    uint lane = gl_LocalInvocationID.x;
    uint at = p.h_at + r * p.h_stride;
    float sum = 0.0;
    if (KEPT > 0) {
        float kept[KEPT > 0 ? KEPT : 1];
        for (uint n = 0; n < KEPT; ++n) {
            uint i = min(lane + n * WG, p.dim - 1);
            kept[n] = a[p.a_at + r * p.a_stride + i] + b[p.b_at + r * p.b_stride + i];
        }
        for (uint n = 0; n < KEPT; ++n) {
            if (lane + n * WG < p.dim) {
                h[at + lane + n * WG] = kept[n];
                sum += kept[n] * kept[n];
            }
        }
        float scale = inversesqrt(workgroup_sum(sum) / float(p.dim) + p.eps);
        for (uint n = 0; n < KEPT; ++n) {
            uint i = lane + n * WG;
            if (i < p.dim) y[p.y_at + r * p.y_stride + i] = kept[n] * scale * (w[p.w_at + i] + p.weight_offset);
        }
        return;
    }
    for (uint i = lane; i < p.dim; i += WG) {
        float v = a[p.a_at + r * p.a_stride + i] + b[p.b_at + r * p.b_stride + i];
        h[at + i] = v;
        sum += v * v;
    }
    float scale = inversesqrt(workgroup_sum(sum) / float(p.dim) + p.eps);
    for (uint i = lane; i < p.dim; i += WG) {
        y[p.y_at + r * p.y_stride + i] = h[at + i] * scale * (w[p.w_at + i] + p.weight_offset);
    }
}
