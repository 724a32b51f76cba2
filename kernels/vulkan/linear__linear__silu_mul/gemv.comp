// op: linear+linear+silu_mul, few rows. y[r, n] = g·σ(g)·u with
// g = Σₖ x[r, k]·w_gate[n, k] (+ bias), u = Σₖ x[r, k]·w_up[n, k] (+ bias).
// x f32 [R, K], w_gate, w_up [N, K] of one scheme (f32, f16 or bf16 row-major, or
// blocks in the layout `grouped`), biases f32 [N], y f32 [R, N].
// Launch: one team of lanes for each COLS output columns, striding over N. Tolerance
// 2e-5 and, of blocks, 1e-3.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"
#include "../common/stored.glsl"
#include "../common/blocks.glsl"
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
    uint gate_at, up_at, w_stride;
    uint gate_bias_at, has_gate_bias;
    uint up_bias_at, has_up_bias;
    uint y_at, y_stride;
    uint aligned;
} p;

GROUP_READER(read_gate, gate, gate4)
GROUP_READER(read_up, up, up4)

// Rows past the last read the last again.
#define X_ROW(j) (p.x_at + min(r0 + (j), rows - 1) * p.x_stride)
#define GATE_ROW(c) (p.gate_at + min(n0 + (c), p.n - 1) * p.w_stride)
#define UP_ROW(c) (p.up_at + min(n0 + (c), p.n - 1) * p.w_stride)

void main() {
    uint rows = REAL_ROWS(p.rows);
    uint lane = team_lane();
    for (uint n0 = team_index() * COLS; n0 < p.n; n0 += team_count() * COLS) {
        for (uint r0 = 0; r0 < rows; r0 += ROWS) {
            float acc_gate[ROWS * COLS];
            float acc_up[ROWS * COLS];
#define W_ROW GATE_ROW
            GEMV(acc_gate, read_gate, gate, gate4)
#undef W_ROW
#define W_ROW UP_ROW
            GEMV(acc_up, read_up, up, up4)
            for (uint c = 0; c < COLS; ++c) {
                uint n = n0 + c;
                uint last = min(n, p.n - 1);
                for (uint j = 0; j < ROWS; ++j) {
                    float a = team_sum(acc_gate[c * ROWS + j]);
                    float b = team_sum(acc_up[c * ROWS + j]);
                    if (p.has_gate_bias != 0) a += gate_bias[p.gate_bias_at + last];
                    if (p.has_up_bias != 0) b += up_bias[p.up_bias_at + last];
                    if (lane == 0 && r0 + j < rows && n < p.n) {
                        y[p.y_at + (r0 + j) * p.y_stride + n] = silu(a) * b;
                    }
                }
            }
        }
    }
}
