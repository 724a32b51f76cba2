// ops: expert_linear, expert_linear, silu_mul and, with a shared expert, linear,
// linear, silu_mul of the same x; one row, activations in int8: gate and up of the
// experts that the row chose, and of the shared one. y[j, n] = silu(g)·u with
// g = q8(x)·w[e·N + n] (+ bias), u = q8(x)·v[e·N + n] (+ bias), e the j-th chosen.
// x f32 [1, K], w, v [E·N, K], s, t [M, K] of one block scheme in the layout `grouped`,
// biases f32, chosen u32 [1, parts], y f32 [1, parts, N], z f32 [1, M].
// Launch: each workgroup rounds x for itself; its teams take one column each, those of
// the parts in turn, then those of the shared expert. Tolerance 2e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "base.glsl"
#include "reduce.glsl"
#include "stored.glsl"
#include "blocks.glsl"
#include "gemv.glsl"
#include "gemv_q8.glsl"
#include "silu.glsl"

layout(constant_id = 10) const uint PARTS = 1;
layout(constant_id = 11) const bool SHARED = false;

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 0, scalar) readonly buffer X4 { vec4 x4[]; };
layout(set = 0, binding = 1, scalar) readonly buffer W { uint w[]; };
layout(set = 0, binding = 1, scalar) readonly buffer W4 { uvec4 w4[]; };
layout(set = 0, binding = 2, scalar) readonly buffer V { uint v[]; };
layout(set = 0, binding = 2, scalar) readonly buffer V4 { uvec4 v4[]; };
layout(set = 0, binding = 3, scalar) readonly buffer S { uint s_words[]; };
layout(set = 0, binding = 3, scalar) readonly buffer S4 { uvec4 s_pieces[]; };
layout(set = 0, binding = 4, scalar) readonly buffer T { uint t_words[]; };
layout(set = 0, binding = 4, scalar) readonly buffer T4 { uvec4 t_pieces[]; };
layout(set = 0, binding = 5, scalar) readonly buffer WBias { float w_bias[]; };
layout(set = 0, binding = 6, scalar) readonly buffer VBias { float v_bias[]; };
layout(set = 0, binding = 7, scalar) readonly buffer SBias { float s_bias[]; };
layout(set = 0, binding = 8, scalar) readonly buffer TBias { float t_bias[]; };
layout(set = 0, binding = 9, scalar) readonly buffer Chosen { uint chosen[]; };
layout(set = 0, binding = 10, scalar) writeonly buffer Y { float y[]; };
layout(set = 0, binding = 11, scalar) writeonly buffer Z { float z[]; };
STEP_BUFFER(12)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint k, w_stride;
    uint x_at;
    uint w_at, v_at, s_at, t_at;
    // Columns of an expert, and of the shared one.
    uint n, n_shared;
    uint w_bias_at, v_bias_at, s_bias_at, t_bias_at;
    // A bit for each matrix that has a bias.
    uint biased;
    uint chosen_at;
    uint y_at, z_at;
    uint aligned;
} p;

GROUP_READER(read_w, w, w4)
GROUP_READER(read_v, v, v4)
GROUP_READER(read_s, s_words, s_pieces)
GROUP_READER(read_t, t_words, t_pieces)

#define X_ROW(j) (p.x_at)

// Where a column of all stands in its matrices.
struct Place {
    bool of_shared;
    uint row;
};

Place place_of(uint n) {
    uint part = n / p.n;
    if (SHARED && part >= PARTS) return Place(true, n - PARTS * p.n);
    return Place(false, chosen[p.chosen_at + part] * p.n + (n - part * p.n));
}

void read_gate(out Raw r, Place at, uint groups, uint g) {
    if (SHARED && at.of_shared) read_s(r, p.s_at + at.row * p.w_stride, groups, g);
    else read_w(r, p.w_at + at.row * p.w_stride, groups, g);
}

void read_up(out Raw r, Place at, uint groups, uint g) {
    if (SHARED && at.of_shared) read_t(r, p.t_at + at.row * p.w_stride, groups, g);
    else read_v(r, p.v_at + at.row * p.w_stride, groups, g);
}

#define PLACE(c) (place)
#define FETCH_BOTH(from)                    \
    FETCH(gates, read_gate, PLACE, from)    \
    FETCH(ups, read_up, PLACE, from)

void store(uint n, Place at, float gate, float up) {
    if (SHARED && at.of_shared) {
        if ((p.biased & 4u) != 0) gate += s_bias[p.s_bias_at + at.row];
        if ((p.biased & 8u) != 0) up += t_bias[p.t_bias_at + at.row];
        z[p.z_at + at.row] = silu(gate) * up;
        return;
    }
    if ((p.biased & 1u) != 0) gate += w_bias[p.w_bias_at + at.row];
    if ((p.biased & 2u) != 0) up += v_bias[p.v_bias_at + at.row];
    y[p.y_at + n] = silu(gate) * up;
}

void main() {
    if (REAL_ROWS(p.rows) == 0) return;
    uint lane = team_lane();
    uint all = PARTS * p.n + (SHARED ? p.n_shared : 0);
    uint n = team_index();
    Place place = place_of(min(n, all - 1));
    Raw gates[AHEAD];
    Raw ups[AHEAD];
    FETCH_BOTH(0)
    ROUND_X()
    while (n < all) {
        float gate[1] = float[](0.0);
        float up[1] = float[](0.0);
        for (uint from = 0; from < p.k / 32; from += AHEAD * TEAM) {
            MULTIPLY(gate, gates, from)
            MULTIPLY(up, ups, from)
            uint next = from + AHEAD * TEAM;
            if (next < p.k / 32) {
                FETCH_BOTH(next)
            }
        }
        uint own = n;
        Place at = place;
        n += team_count();
        if (n < all) {
            place = place_of(n);
            FETCH_BOTH(0)
        }
        float g = team_sum(gate[0]);
        float u = team_sum(up[0]);
        if (lane == 0) store(own, at, g, u);
    }
}
