// op: linear+linear+silu_mul, few rows, activations in int8. y[r, n] = g·σ(g)·u with
// g = Σₖ q8(x[r, k])·w_gate[n, k] (+ bias), u = Σₖ q8(x[r, k])·w_up[n, k] (+ bias).
// x f32 [R, K], w_gate, w_up [N, K] of one block scheme in the layout `grouped`,
// biases f32 [N], y f32 [R, N].
// Launch: each workgroup rounds x for itself; each of its teams takes COLS output
// columns, striding over N. Tolerance 1e-3.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"
#include "../common/stored.glsl"
#include "../common/blocks.glsl"
#include "../common/gemv.glsl"
#include "../common/gemv_q8.glsl"
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

#define FETCH_BOTH(from)                     \
    FETCH(gates, read_gate, GATE_ROW, from)  \
    FETCH(ups, read_up, UP_ROW, from)

void main() {
    uint rows = REAL_ROWS(p.rows);
    uint lane = team_lane();
    uint step = team_count() * COLS;
    for (uint r0 = 0; r0 < rows; r0 += ROWS) {
        uint n0 = team_index() * COLS;
        Raw gates[AHEAD * COLS];
        Raw ups[AHEAD * COLS];
        FETCH_BOTH(0)
        ROUND_X()
        while (n0 < p.n) {
            float acc_gate[ROWS * COLS];
            float acc_up[ROWS * COLS];
            for (uint i = 0; i < ROWS * COLS; ++i) {
                acc_gate[i] = 0.0;
                acc_up[i] = 0.0;
            }
            for (uint from = 0; from < p.k / 32; from += AHEAD * TEAM) {
                MULTIPLY(acc_gate, gates, from)
                MULTIPLY(acc_up, ups, from)
                uint next = from + AHEAD * TEAM;
                if (next < p.k / 32) {
                    FETCH_BOTH(next)
                }
            }
            uint first = n0;
            n0 += step;
            if (n0 < p.n) {
                FETCH_BOTH(0)
            }
            for (uint c = 0; c < COLS; ++c) {
                uint n = first + c;
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
        workgroup_sync();
    }
}
