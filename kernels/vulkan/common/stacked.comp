// op: expert_linear, head_linear. y[t, j] = x[t, j]·w[e]ᵀ (+ bias[e]) with e the
// j-th expert that row t chose, or head j itself.
// x f32 [T, k, K], or [T, K] for all k, w [E·N, K] f32, f16 or bf16 row-major or a
// block scheme in the layout `grouped`, bias f32 [E·N], chosen u32 [T, k], y f32
// [T, k, N]; rows strided.
// Launch: one team of lanes for each COLS columns (x), for each vector of x (y).
// One dispatch for each part of the matrices that a binding can hold: rows outside
// `first..first+count` are another's. Tolerance 2e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"
#include "../common/stored.glsl"
#include "../common/blocks.glsl"
#include "../common/gemv.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 0, scalar) readonly buffer X4 { vec4 x4[]; };
layout(set = 0, binding = 1, scalar) readonly buffer W { uint w[]; };
layout(set = 0, binding = 1, scalar) readonly buffer W4 { uvec4 w4[]; };
layout(set = 0, binding = 2, scalar) readonly buffer Bias { float bias[]; };
layout(set = 0, binding = 3, scalar) readonly buffer Chosen { uint chosen[]; };
layout(set = 0, binding = 4, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(5)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint n, k, vectors;
    // Between the vectors of a row of x.
    uint x_at, x_stride, x_step;
    uint w_at, w_stride, first, count;
    uint bias_at, has_bias;
    uint chosen_at, chosen_stride, by_head;
    uint y_at, y_stride;
    uint aligned;
} p;

GROUP_READER(read_w, w, w4)

#define X_ROW(j) (from)
#define W_ROW(c) (p.w_at + (min(n0 + (c), n_end - 1) + base - p.first) * p.w_stride)

void main() {
    uint lane = team_lane();
    uint all = REAL_ROWS(p.rows) * p.vectors;
    for (uint pair = gl_WorkGroupID.y; pair < all; pair += gl_NumWorkGroups.y) {
        uint t = pair / p.vectors;
        uint j = pair % p.vectors;
        uint e = p.by_head != 0 ? j : chosen[p.chosen_at + t * p.chosen_stride + j];
        uint from = p.x_at + t * p.x_stride + j * p.x_step;
        uint to = p.y_at + t * p.y_stride + j * p.n;
        // Columns whose weights this part holds.
        uint base = e * p.n;
        uint n_begin = p.first > base ? p.first - base : 0;
        uint n_end = min(p.n, max(p.first + p.count, base) - base);
        for (uint n0 = n_begin + team_index() * COLS; n0 < n_end; n0 += team_count() * COLS) {
            float acc[ROWS * COLS];
            GEMV(acc, read_w, w, w4)
            for (uint c = 0; c < COLS; ++c) {
                float sum = team_sum(acc[c]);
                uint n = n0 + c;
                if (lane == 0 && n < n_end) {
                    if (p.has_bias != 0) sum += bias[p.bias_at + base + n];
                    y[to + n] = sum;
                }
            }
        }
    }
}
