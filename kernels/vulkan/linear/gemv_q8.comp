// op: linear, few rows, activations in int8. y[r, n] = Σₖ q8(x[r, k])·w[n, k] (+
// bias[n]).
// x f32 [R, K], w [N, K] a block scheme in the layout `grouped`, bias f32 [N], y
// f32 [R, N].
// Launch: each workgroup rounds x for itself; each of its teams takes COLS output
// columns, striding over N. Tolerance 2e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"
#include "../common/stored.glsl"
#include "../common/blocks.glsl"
#include "../common/gemv.glsl"
#include "../common/gemv_q8.glsl"

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
    uint w_at, w_stride;
    uint bias_at, has_bias;
    uint y_at, y_stride;
    uint aligned;
} p;

GROUP_READER(read_w, w, w4)

// Rows past the last read the last again.
#define X_ROW(j) (p.x_at + min(r0 + (j), rows - 1) * p.x_stride)
#define W_ROW(c) (p.w_at + min(n0 + (c), p.n - 1) * p.w_stride)

void main() {
    uint rows = REAL_ROWS(p.rows);
    uint lane = team_lane();
    uint step = team_count() * COLS;
    for (uint r0 = 0; r0 < rows; r0 += ROWS) {
        uint n0 = team_index() * COLS;
        Raw b[AHEAD * COLS];
        FETCH(b, read_w, W_ROW, 0)
        ROUND_X()
        while (n0 < p.n) {
            float acc[ROWS * COLS];
            for (uint i = 0; i < ROWS * COLS; ++i) acc[i] = 0.0;
            uint first = n0;
            for (uint from = 0; from < p.k / 32; from += AHEAD * TEAM) {
                // What is multiplied makes room for what comes next, in these columns or
                // the team's next.
                uint next = from + AHEAD * TEAM;
                if (next >= p.k / 32) {
                    next = 0;
                    n0 += step;
                }
                [[unroll]] for (uint i = 0; i < AHEAD; ++i) {
                    MULTIPLY_ONE(acc, b, i, from)
                    if (n0 < p.n) FETCH_ONE(b, read_w, W_ROW, i, next)
                }
            }
            for (uint c = 0; c < COLS; ++c) {
                uint n = first + c;
                for (uint j = 0; j < ROWS; ++j) {
                    float sum = team_sum(acc[c * ROWS + j]);
                    if (p.has_bias != 0) sum += bias[p.bias_at + min(n, p.n - 1)];
                    if (lane == 0 && r0 + j < rows && n < p.n) {
                        y[p.y_at + (r0 + j) * p.y_stride + n] = sum;
                    }
                }
            }
        }
        workgroup_sync();
    }
}
