// op: linear, few rows. y[r, n] = Σₖ x[r, k]·w[n, k] (+ bias[n]).
// x f32 [R, K], w [N, K] f32, f16 or bf16 row-major, bias f32 [N], y f32 [R, N].
// Launch: one workgroup for each output column, striding over N. Tolerance 2e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"
#include "../common/stored.glsl"
#include "../common/gemv.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 0, scalar) readonly buffer X4 { vec4 x4[]; };
layout(set = 0, binding = 1, scalar) readonly buffer W { uint w[]; };
layout(set = 0, binding = 1, scalar) readonly buffer W4 { uvec4 w4[]; };
layout(set = 0, binding = 2, scalar) readonly buffer Bias { float bias[]; };
layout(set = 0, binding = 3, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(4)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint n, k;
    uint x_at, x_stride;
    uint w_at;
    uint bias_at, has_bias;
    uint y_at, y_stride;
    uint aligned;
} p;

void main() {
    uint rows = REAL_ROWS(p.rows);
    uint lane = gl_LocalInvocationID.x;
    for (uint n = gl_WorkGroupID.x; n < p.n; n += gl_NumWorkGroups.x) {
        for (uint r0 = 0; r0 < rows; r0 += ROWS) {
            float acc[ROWS];
            GEMV(acc, w, w4, p.w_at + n * p.k)
            for (uint j = 0; j < ROWS; ++j) {
                float sum = workgroup_sum(acc[j]);
                if (p.has_bias != 0) sum += bias[p.bias_at + n];
                if (lane == 0 && r0 + j < rows) y[p.y_at + (r0 + j) * p.y_stride + n] = sum;
            }
        }
    }
}
