// op: linear+linear+silu_mul, few rows. y[r, n] = g·σ(g)·u with
// g = Σₖ x[r, k]·w_gate[n, k] (+ bias), u = Σₖ x[r, k]·w_up[n, k] (+ bias).
// x f32 [R, K], w_gate, w_up [N, K] of one scheme (f32, f16, bf16) row-major,
// biases f32 [N], y f32 [R, N].
// Launch: one workgroup for each output column, striding over N. Tolerance 2e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"
#include "../common/stored.glsl"
#include "../common/gemv.glsl"
#include "../common/silu.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 0, scalar) readonly buffer X4 { vec4 x4[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Gate { uint gate[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Gate4 { uvec4 gate4[]; };
layout(set = 0, binding = 2, scalar) readonly buffer Up { uint up[]; };
layout(set = 0, binding = 2, scalar) readonly buffer Up4 { uvec4 up4[]; };
layout(set = 0, binding = 3, scalar) readonly buffer GateBias { float gate_bias[]; };
layout(set = 0, binding = 4, scalar) readonly buffer UpBias { float up_bias[]; };
layout(set = 0, binding = 5, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(6)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint n, k;
    uint x_at, x_stride;
    uint gate_at, up_at;
    uint gate_bias_at, has_gate_bias;
    uint up_bias_at, has_up_bias;
    uint y_at, y_stride;
    uint aligned;
} p;

void main() {
    uint rows = REAL_ROWS(p.rows);
    uint lane = gl_LocalInvocationID.x;
    for (uint n = gl_WorkGroupID.x; n < p.n; n += gl_NumWorkGroups.x) {
        for (uint r0 = 0; r0 < rows; r0 += ROWS) {
            float g[ROWS];
            float u[ROWS];
            GEMV(g, gate, gate4, p.gate_at + n * p.k)
            GEMV(u, up, up4, p.up_at + n * p.k)
            for (uint j = 0; j < ROWS; ++j) {
                float a = workgroup_sum(g[j]);
                float b = workgroup_sum(u[j]);
                if (p.has_gate_bias != 0) a += gate_bias[p.gate_bias_at + n];
                if (p.has_up_bias != 0) b += up_bias[p.up_bias_at + n];
                if (lane == 0 && r0 + j < rows) {
                    y[p.y_at + (r0 + j) * p.y_stride + n] = silu(a) * b;
                }
            }
        }
    }
}
