// op: route. The top_k experts of each row and their weights.
// logits f32 [T, E], bias f32 [E]?, weights f32 [T, k], experts u32 [T, k], rows
// strided. Scores are a softmax or σ of the logits; selection goes by score + bias,
// in eligible groups, largest first and the lowest expert on ties, a NaN never
// before a number. Weights are the scores without bias, over their sum if
// normalised, times the scale.
// Launch: one workgroup for each row (y). Tolerance 2e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"
#include "../common/silu.glsl"
#include "../common/order.glsl"

layout(constant_id = 3) const uint EXPERTS = 8;
layout(constant_id = 4) const uint GROUPS = 1;
layout(constant_id = 5) const uint TOP_K = 1;

layout(set = 0, binding = 0, scalar) readonly buffer Logits { float logits[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Bias { float bias[]; };
layout(set = 0, binding = 2, scalar) writeonly buffer Weights { float weights[]; };
layout(set = 0, binding = 3, scalar) writeonly buffer Experts { uint experts[]; };
STEP_BUFFER(4)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint keep;
    uint sigmoid_score, normalise;
    uint logits_at, logits_stride;
    uint bias_at, has_bias;
    uint weights_at, weights_stride;
    uint experts_at, experts_stride;
    float scale;
} p;

const uint NONE = 0xffffffffu;

shared float score[EXPERTS];
// What orders the candidates that are left: larger is better; 0 for a NaN.
shared uint rank[EXPERTS];
shared bool left[EXPERTS];
shared uint group_rank[GROUPS];
shared bool group_left[GROUPS];
shared uint parts[WG];
shared uint chosen[TOP_K];

uint workgroup_umax(uint v) {
    v = subgroupMax(v);
    if (!ONE_SUBGROUP) {
        if (subgroupElect()) parts[gl_SubgroupID] = v;
        barrier();
        for (uint i = 0; i < gl_NumSubgroups; ++i) v = max(v, parts[i]);
        barrier();
    }
    return v;
}

// The sum of the two largest numbers of a group.
float two_largest(uint g) {
    float none = uintBitsToFloat(0xff800000u);
    vec2 top = vec2(none);
    for (uint i = g * (EXPERTS / GROUPS); i < (g + 1) * (EXPERTS / GROUPS); ++i) {
        float x = score[i] + (p.has_bias != 0 ? bias[p.bias_at + i] : 0.0);
        if (rank[i] == 0) continue;
        if (x > top.x) {
            top = vec2(x, top.x);
        } else if (x > top.y) {
            top.y = x;
        }
    }
    return top.x + top.y;
}

void main() {
    uint t = gl_WorkGroupID.y;
    if (t >= REAL_ROWS(p.rows)) return;
    uint lane = gl_LocalInvocationID.x;
    uint from = p.logits_at + t * p.logits_stride;
    if (p.sigmoid_score != 0) {
        for (uint i = lane; i < EXPERTS; i += WG) score[i] = sigmoid(logits[from + i]);
    } else {
        float top = -3.0e38;
        for (uint i = lane; i < EXPERTS; i += WG) top = max(top, logits[from + i]);
        top = workgroup_max(top);
        float sum = 0.0;
        for (uint i = lane; i < EXPERTS; i += WG) {
            score[i] = exp(logits[from + i] - top);
            sum += score[i];
        }
        sum = workgroup_sum(sum);
        for (uint i = lane; i < EXPERTS; i += WG) score[i] /= sum;
    }
    for (uint i = lane; i < EXPERTS; i += WG) {
        rank[i] = order_of(score[i] + (p.has_bias != 0 ? bias[p.bias_at + i] : 0.0), 0u);
        left[i] = true;
    }
    workgroup_sync();
    if (GROUPS > 1) {
        for (uint g = lane; g < GROUPS; g += WG) {
            group_rank[g] = order_of(two_largest(g), 0u);
            group_left[g] = true;
        }
        workgroup_sync();
        if (lane == 0) {
            for (uint n = 0; n < p.keep; ++n) {
                uint best = NONE;
                for (uint g = 0; g < GROUPS; ++g) {
                    if (group_left[g] && (best == NONE || group_rank[g] > group_rank[best])) best = g;
                }
                group_left[best] = false;
            }
        }
        workgroup_sync();
        for (uint i = lane; i < EXPERTS; i += WG) left[i] = !group_left[i / (EXPERTS / GROUPS)];
        workgroup_sync();
    }
    for (uint j = 0; j < TOP_K; ++j) {
        uint best = 0;
        for (uint i = lane; i < EXPERTS; i += WG) {
            if (left[i]) best = max(best, rank[i]);
        }
        best = workgroup_umax(best);
        // The lowest of the best: the largest of the negated numbers.
        uint last = 0;
        for (uint i = lane; i < EXPERTS; i += WG) {
            if (left[i] && rank[i] == best) last = max(last, ~i);
        }
        last = ~workgroup_umax(last);
        if (lane == 0) {
            chosen[j] = last;
            left[last] = false;
        }
        workgroup_sync();
    }
    if (lane != 0) return;
    float sum = 0.0;
    for (uint j = 0; j < TOP_K; ++j) sum += score[chosen[j]];
    for (uint j = 0; j < TOP_K; ++j) {
        float w = score[chosen[j]];
        if (p.normalise != 0) w /= sum;
        weights[p.weights_at + t * p.weights_stride + j] = w * p.scale;
        experts[p.experts_at + t * p.experts_stride + j] = chosen[j];
    }
}
