// op: linear, few rows. y[r, n] = Σₖ x[r, k]·w[n, k] (+ bias[n]).
// x f32 [R, K], w [N, K] f32, f16 or bf16 row-major, bias f32 [N], y f32 [R, N].
// Launch: one workgroup for each output column, striding over N; ROWS rows share
// each weight load. Lane i takes whole 16-byte pieces i, i+WG, … of a weight row
// where rows are aligned, single elements else. Tolerance 2e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"
#include "../common/stored.glsl"

layout(constant_id = 4) const uint ROWS = 1;

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
        uint w_row = p.w_at + n * p.k;
        for (uint r0 = 0; r0 < rows; r0 += ROWS) {
            float acc[ROWS];
            for (uint j = 0; j < ROWS; ++j) acc[j] = 0.0;
            if (p.aligned != 0 && SCHEME == F32) {
                for (uint i = lane; i < p.k / 4; i += WG) {
                    vec4 a = uintBitsToFloat(w4[w_row / 4 + i]);
                    for (uint j = 0; j < ROWS; ++j) {
                        // Rows past the last read the last again.
                        uint r = min(r0 + j, rows - 1);
                        acc[j] += dot(a, x4[(p.x_at + r * p.x_stride) / 4 + i]);
                    }
                }
            } else if (p.aligned != 0) {
                for (uint i = lane; i < p.k / 8; i += WG) {
                    uvec4 word = w4[w_row / 8 + i];
                    vec4 a = vec4(decode16x2(word.x), decode16x2(word.y));
                    vec4 b = vec4(decode16x2(word.z), decode16x2(word.w));
                    for (uint j = 0; j < ROWS; ++j) {
                        uint r = min(r0 + j, rows - 1);
                        uint at = (p.x_at + r * p.x_stride) / 4 + 2 * i;
                        acc[j] += dot(a, x4[at]) + dot(b, x4[at + 1]);
                    }
                }
            } else {
                for (uint i = lane; i < p.k; i += WG) {
                    float a = STORED(w, w_row + i);
                    for (uint j = 0; j < ROWS; ++j) {
                        uint r = min(r0 + j, rows - 1);
                        acc[j] += a * x[p.x_at + r * p.x_stride + i];
                    }
                }
            }
            for (uint j = 0; j < ROWS; ++j) {
                float sum = workgroup_sum(acc[j]);
                if (p.has_bias != 0) sum += bias[p.bias_at + n];
                if (lane == 0 && r0 + j < rows) y[p.y_at + (r0 + j) * p.y_stride + n] = sum;
            }
        }
    }
}
