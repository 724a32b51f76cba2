// ops: expert_linear, expert_sum, linear, sigmoid_mul, add, add and maybe rms_norm; one
// row, activations in int8: down of the experts that the row chose and of the shared
// one, into the row's sum. y[n] = x[n] + (Σⱼ weights[j]·(w[e·N + n]·q8(h[j]) (+ bias)) +
// σ(gate)·(s[n]·q8(h_shared) (+ bias))), e the j-th chosen.
// h f32 [1, parts, K], h_shared f32 [1, M], w [E·N, K], s [N, M] of one block scheme in
// the layout `grouped`, biases, norm f32 [N], chosen u32 and weights f32 [1, parts],
// gate f32 [1, 1] or [1, N], x, y, normed f32 [1, N].
// Launch: each workgroup rounds all h for itself; its teams take one column each, of
// all parts at once. The last workgroup that is done makes the norm. Tolerance 2e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "base.glsl"
#include "reduce.glsl"
#include "stored.glsl"
#include "blocks.glsl"
#include "gemv.glsl"

layout(constant_id = 10) const uint PARTS = 1;
// Elements of a part's h, and of the shared one's.
layout(constant_id = 11) const uint K = 32;
layout(constant_id = 12) const uint K_SHARED = 32;
layout(constant_id = 13) const bool NORMED = false;

// All h one behind the other.
#define ROW_LENGTH (PARTS * K + K_SHARED)
#define RAW_QUAD(v, j, q) vec4 v = quad_of_h(q);
vec4 quad_of_h(uint q);

#include "gemv_q8.glsl"
#include "silu.glsl"
#include "last.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer H { float h[]; };
layout(set = 0, binding = 1, scalar) readonly buffer HShared { float h_shared[]; };
layout(set = 0, binding = 2, scalar) readonly buffer W { uint w[]; };
layout(set = 0, binding = 2, scalar) readonly buffer W4 { uvec4 w4[]; };
layout(set = 0, binding = 3, scalar) readonly buffer S { uint s_words[]; };
layout(set = 0, binding = 3, scalar) readonly buffer S4 { uvec4 s_pieces[]; };
layout(set = 0, binding = 4, scalar) readonly buffer WBias { float w_bias[]; };
layout(set = 0, binding = 5, scalar) readonly buffer SBias { float s_bias[]; };
layout(set = 0, binding = 6, scalar) readonly buffer Chosen { uint chosen[]; };
layout(set = 0, binding = 7, scalar) readonly buffer Weights { float weights[]; };
layout(set = 0, binding = 8, scalar) readonly buffer Gate { float gate[]; };
layout(set = 0, binding = 9, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 10, scalar) coherent buffer Y { float y[]; };
layout(set = 0, binding = 11, scalar) readonly buffer Norm { float norm[]; };
layout(set = 0, binding = 12, scalar) writeonly buffer Normed { float normed[]; };
STEP_BUFFER(13)
COUNTER(14)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint n;
    uint h_at, h_shared_at;
    uint w_at, w_stride;
    uint s_at, s_stride;
    uint w_bias_at, s_bias_at;
    // A bit each for the biases of w and of s.
    uint biased;
    uint chosen_at, weights_at;
    uint gate_at, one_gate;
    uint x_at, y_at;
    uint norm_at, normed_at;
    float eps, weight_offset;
} p;

GROUP_READER(read_w, w, w4)
GROUP_READER(read_s, s_words, s_pieces)

vec4 quad_of_h(uint q) {
    uint i = 4 * q;
    if (i < PARTS * K) {
        i += p.h_at;
        return vec4(h[i], h[i + 1], h[i + 2], h[i + 3]);
    }
    i += p.h_shared_at - PARTS * K;
    return vec4(h_shared[i], h_shared[i + 1], h_shared[i + 2], h_shared[i + 3]);
}

// Groups of a column: those of each part, then the shared one's.
const uint GROUPS = K / 32;
const uint ALL_GROUPS = (PARTS * K + K_SHARED) / 32;

void read_any(out Raw r, uint n, uint i) {
    uint part = i / GROUPS;
    if (part >= PARTS) {
        read_s(r, p.s_at + n * p.s_stride, K_SHARED / 32, i - PARTS * GROUPS);
    } else {
        uint row = chosen[p.chosen_at + part] * p.n + n;
        read_w(r, p.w_at + row * p.w_stride, GROUPS, i - part * GROUPS);
    }
}

Group group_at(Raw r, uint i) {
    uint part = min(i / GROUPS, PARTS);
    return group_of(r, part < PARTS ? GROUPS : K_SHARED / 32, i - part * GROUPS);
}

// What a part's product with column n is multiplied by.
float factor_of(uint part, uint n) {
    if (part >= PARTS) return sigmoid(gate[p.gate_at + (p.one_gate != 0 ? 0 : n)]);
    return weights[p.weights_at + part];
}

#define FETCH_COLUMN(from)                                            \
    [[unroll]] for (uint i = 0; i < AHEAD; ++i) {                     \
        uint g = min((from) + i * TEAM + lane, ALL_GROUPS - 1);       \
        read_any(b[i], n, g);                                         \
        factors[i] = factor_of(g / GROUPS, n);                        \
    }

void main() {
    if (REAL_ROWS(p.rows) == 0) return;
    uint lane = team_lane();
    uint next_n = team_index();
    uint n = min(next_n, p.n - 1);
    Raw b[AHEAD];
    float factors[AHEAD];
    FETCH_COLUMN(0)
    float before = x[p.x_at + n];
    ROUND_X()
    while (next_n < p.n) {
        float sum = 0.0;
        for (uint from = 0; from < ALL_GROUPS; from += AHEAD * TEAM) {
            [[unroll]] for (uint i = 0; i < AHEAD; ++i) {
                uint g = from + i * TEAM + lane;
                if (g < ALL_GROUPS) sum += factors[i] * group_product(group_at(b[i], g), group_place(0, g));
            }
            uint next = from + AHEAD * TEAM;
            if (next < ALL_GROUPS) {
                FETCH_COLUMN(next)
            }
        }
        uint own = n;
        float own_before = before;
        next_n += team_count();
        if (next_n < p.n) {
            n = next_n;
            FETCH_COLUMN(0)
            before = x[p.x_at + n];
        }
        if ((p.biased & 1u) != 0) {
            for (uint j = lane; j < PARTS; j += TEAM) {
                uint row = chosen[p.chosen_at + j] * p.n + own;
                sum += weights[p.weights_at + j] * w_bias[p.w_bias_at + row];
            }
        }
        sum = team_sum(sum);
        if (lane == 0) {
            if ((p.biased & 2u) != 0) sum += factor_of(PARTS, own) * s_bias[p.s_bias_at + own];
            y[p.y_at + own] = own_before + sum;
        }
    }
    if (NORMED) {
        LAST_WORKGROUP(last)
        if (last) NORM_ROW(y, p.y_at, p.n, norm, p.norm_at, normed, p.normed_at, p.eps, p.weight_offset)
    }
}
