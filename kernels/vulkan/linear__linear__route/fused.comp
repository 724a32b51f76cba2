// ops: linear, linear over the same x, route of the first; one row: a router and the
// gate of the shared expert. x f32 [1, K], w [E, K] and v [M, K] f32, f16 or bf16
// row-major, biases f32; the choice as in `route/plain.comp`, here without groups.
// Launch: one team of lanes for each column of w, then of v, its weights all asked
// for at once; the last workgroup that is done routes, in one team's registers: expert
// i is lane i mod TEAM's. Tolerance 2e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"
#include "../common/stored.glsl"
#include "../common/blocks.glsl"
#include "../common/gemv.glsl"
#include "../common/silu.glsl"
#include "../common/order.glsl"
#include "../common/last.glsl"

// Pieces of 16 bytes of a row that a lane keeps in registers, or 0 for many.
layout(constant_id = 8) const uint HELD = 0;
layout(constant_id = 9) const uint EXPERTS = 8;
layout(constant_id = 10) const uint TOP_K = 1;
layout(constant_id = 11) const bool SIGMOID = false;
layout(constant_id = 12) const bool NORMALISE = false;

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 0, scalar) readonly buffer X4 { vec4 x4[]; };
layout(set = 0, binding = 1, scalar) readonly buffer W { uint w[]; };
layout(set = 0, binding = 1, scalar) readonly buffer W4 { uvec4 w4[]; };
layout(set = 0, binding = 2, scalar) readonly buffer V { uint v[]; };
layout(set = 0, binding = 2, scalar) readonly buffer V4 { uvec4 v4[]; };
layout(set = 0, binding = 3, scalar) readonly buffer WBias { float w_bias[]; };
layout(set = 0, binding = 4, scalar) readonly buffer VBias { float v_bias[]; };
layout(set = 0, binding = 5, scalar) coherent buffer Logits { float logits[]; };
layout(set = 0, binding = 6, scalar) writeonly buffer Y { float y[]; };
layout(set = 0, binding = 7, scalar) readonly buffer Bias { float bias[]; };
layout(set = 0, binding = 8, scalar) writeonly buffer Weights { float weights[]; };
layout(set = 0, binding = 9, scalar) writeonly buffer Experts { uint experts[]; };
STEP_BUFFER(10)
COUNTER(11)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint k, n, n_other;
    uint x_at, w_at, v_at;
    uint w_bias_at, v_bias_at, bias_at;
    // A bit each for the biases of w, of v and of the choice.
    uint biased;
    uint logits_at, y_at;
    uint weights_at, experts_at;
    uint aligned;
    float scale;
} p;

GROUP_READER(read_w, w, w4)
GROUP_READER(read_v, v, v4)

const uint PER_LANE = (EXPERTS + TEAM - 1) / TEAM;
const uint PIECE = SCHEME == F32 ? 4 : 8;

shared float taken[TOP_K];
shared uint parts[WG];

uint team_umax(uint a) {
    a = subgroupMax(a);
    if (!TEAMS) {
        if (subgroupElect()) parts[gl_SubgroupID] = a;
        barrier();
        for (uint i = 0; i < gl_NumSubgroups; ++i) a = max(a, parts[i]);
        barrier();
    }
    return a;
}

float team_max(float a) {
    return TEAMS ? subgroupMax(a) : workgroup_max(a);
}

void team_sync() {
    if (TEAMS) {
        subgroupMemoryBarrierShared();
        subgroupBarrier();
    } else {
        barrier();
    }
}

#define X_ROW(j) (p.x_at)
#define W_ROW(c) (p.w_at + own * p.k)

// sum = this lane's share of x·w[own].
#define COLUMN(sum, READ, WORDS, PIECES)                                             \
    if (HELD > 0 && p.aligned != 0) {                                                \
        uvec4 held[HELD > 0 ? HELD : 1];                                             \
        uint last = p.k / PIECE - 1;                                                 \
        [[unroll]] for (uint i = 0; i < HELD; ++i) {                                 \
            held[i] = PIECES[W_ROW(0) / PIECE + min(lane + i * TEAM, last)];         \
        }                                                                            \
        [[unroll]] for (uint i = 0; i < HELD; ++i) {                                 \
            uint at = lane + i * TEAM;                                               \
            if (at > last) continue;                                                 \
            if (SCHEME == F32) {                                                     \
                sum += dot(uintBitsToFloat(held[i]), X_ALIGNED(0, at));              \
            } else {                                                                 \
                vec4 a = vec4(decode16x2(held[i].x), decode16x2(held[i].y));         \
                vec4 b = vec4(decode16x2(held[i].z), decode16x2(held[i].w));         \
                sum += dot(a, X_ALIGNED(0, 2 * at)) + dot(b, X_ALIGNED(0, 2 * at + 1)); \
            }                                                                        \
        }                                                                            \
    } else {                                                                         \
        float acc[ROWS * COLS];                                                      \
        GEMV(acc, READ, WORDS, PIECES)                                               \
        sum = acc[0];                                                                \
    }

void route(uint lane) {
    float none = uintBitsToFloat(0xff800000u);
    float score[PER_LANE];
    // Zero for those that are taken.
    uint rank[PER_LANE];
    float top = -3.0e38;
    [[unroll]] for (uint i = 0; i < PER_LANE; ++i) {
        uint e = lane + i * TEAM;
        score[i] = e < EXPERTS ? logits[p.logits_at + e] : none;
        top = max(top, score[i]);
    }
    if (SIGMOID) {
        [[unroll]] for (uint i = 0; i < PER_LANE; ++i) score[i] = sigmoid(score[i]);
    } else {
        top = team_max(top);
        float sum = 0.0;
        [[unroll]] for (uint i = 0; i < PER_LANE; ++i) {
            score[i] = lane + i * TEAM < EXPERTS ? exp(score[i] - top) : 0.0;
            sum += score[i];
        }
        sum = team_sum(sum);
        [[unroll]] for (uint i = 0; i < PER_LANE; ++i) score[i] /= sum;
    }
    [[unroll]] for (uint i = 0; i < PER_LANE; ++i) {
        uint e = lane + i * TEAM;
        rank[i] = 0;
        if (e < EXPERTS) rank[i] = order_of(score[i] + ((p.biased & 4u) != 0 ? bias[p.bias_at + e] : 0.0), 1u);
    }
    for (uint j = 0; j < TOP_K; ++j) {
        uint best = 0;
        uint at = 0;
        [[unroll]] for (uint i = 0; i < PER_LANE; ++i) {
            if (rank[i] > best) {
                best = rank[i];
                at = lane + i * TEAM;
            }
        }
        uint most = team_umax(best);
        // The lowest of the best: the largest of the negated numbers.
        uint e = ~team_umax(best == most ? ~at : 0u);
        [[unroll]] for (uint i = 0; i < PER_LANE; ++i) {
            if (e == lane + i * TEAM) {
                taken[j] = score[i];
                rank[i] = 0;
            }
        }
        if (lane == 0) experts[p.experts_at + j] = e;
    }
    team_sync();
    float sum = 0.0;
    for (uint j = 0; j < TOP_K; ++j) sum += taken[j];
    for (uint j = lane; j < TOP_K; j += TEAM) {
        float a = taken[j];
        if (NORMALISE) a /= sum;
        weights[p.weights_at + j] = a * p.scale;
    }
}

void main() {
    if (REAL_ROWS(p.rows) == 0) return;
    uint lane = team_lane();
    for (uint n = team_index(); n < p.n + p.n_other; n += team_count()) {
        float sum = 0.0;
        if (n < p.n) {
            uint own = n;
            COLUMN(sum, read_w, w, w4)
        } else {
            uint own = n - p.n;
            #undef W_ROW
            #define W_ROW(c) (p.v_at + own * p.k)
            COLUMN(sum, read_v, v, v4)
        }
        sum = team_sum(sum);
        if (lane == 0 && n < p.n) {
            if ((p.biased & 1u) != 0) sum += w_bias[p.w_bias_at + n];
            logits[p.logits_at + n] = sum;
        } else if (lane == 0) {
            uint own = n - p.n;
            if ((p.biased & 2u) != 0) sum += v_bias[p.v_bias_at + own];
            y[p.y_at + own] = sum;
        }
    }
    LAST_WORKGROUP(last)
    if (!last || (TEAMS && gl_SubgroupID != 0)) return;
    route(lane);
}
