// op: gated_delta, row by row as the rule says.
// q, k f32 [T, key_heads, DK], v, o f32 [T, heads, DV], a, b f32 [T, heads], rows
// strided; decay, dt_bias f32 [heads]; state f32 [heads, DK, DV] per slot. The rule:
// Yang et al. 2024, "Gated Delta Networks".
// Launch: one workgroup for each WG columns of a head's state (x) and span (y); a
// lane keeps a column of DK numbers. Tolerance 5e-5: errors of the decay add up.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"
#include "../common/silu.glsl"
#include "../common/softplus.glsl"

layout(constant_id = 3) const uint DK = 64;

layout(set = 0, binding = 0, scalar) readonly buffer Q { float q[]; };
layout(set = 0, binding = 1, scalar) readonly buffer K { float k[]; };
layout(set = 0, binding = 2, scalar) readonly buffer V { float v[]; };
layout(set = 0, binding = 3, scalar) readonly buffer A { float a[]; };
layout(set = 0, binding = 4, scalar) readonly buffer B { float b[]; };
layout(set = 0, binding = 5, scalar) readonly buffer Decay { float decay[]; };
layout(set = 0, binding = 6, scalar) readonly buffer DtBias { float dt_bias[]; };
layout(set = 0, binding = 7, scalar) buffer State { float state[]; };
layout(set = 0, binding = 8, scalar) writeonly buffer O { float o[]; };
STEP_BUFFER(9)

layout(push_constant, scalar) uniform Push {
    uint heads, key_heads, dv;
    uint q_at, q_stride;
    uint k_at, k_stride;
    uint v_at, v_stride;
    uint a_at, a_stride;
    uint b_at, b_stride;
    uint decay_at, dt_bias_at;
    uint state_at, slot_stride, slots;
    uint o_at, o_stride;
    uint spans, span_start, state_in, state_out;
    uint log_decay, tiled;
} p;

// Elements of a key that one turn of a loop takes: see `attend.glsl`.
const uint STEP = DK % 8 == 0 ? 8 : 1;

shared float query[DK];
shared float key[DK];

void main() {
    uint lane = gl_LocalInvocationID.x;
    uint chunks = (p.dv + WG - 1) / WG;
    uint h = gl_WorkGroupID.x / chunks;
    uint column = gl_WorkGroupID.x % chunks * WG + lane;
    uint span = gl_WorkGroupID.y;
    if (span >= meta[p.spans]) return;
    bool mine = column < p.dv;
    uint from = (p.tiled != 0 ? h % p.key_heads : h / (p.heads / p.key_heads)) * DK;
    float d = decay[p.decay_at + h];
    float rate = p.log_decay != 0 ? -exp(d) : d;
    float shift = dt_bias[p.dt_bias_at + h];
    uint cell = p.state_at + h * DK * p.dv + column;

    float s[DK];
    uint slot = meta[p.state_in + span];
    bool known = mine && slot < p.slots;
    for (uint i = 0; i < DK; ++i) {
        s[i] = known ? state[cell + slot * p.slot_stride + i * p.dv] : 0.0;
    }
    uint end = meta[p.span_start + span + 1];
    for (uint t = meta[p.span_start + span]; t < end; ++t) {
        float qq = 0.0;
        float kk = 0.0;
        for (uint i = lane; i < DK; i += WG) {
            float x = q[p.q_at + t * p.q_stride + from + i];
            float y = k[p.k_at + t * p.k_stride + from + i];
            qq += x * x;
            kk += y * y;
            query[i] = x;
            key[i] = y;
        }
        float q_scale = 1.0 / (sqrt(workgroup_sum(qq) + 1e-6) * sqrt(float(DK)));
        float k_scale = 1.0 / sqrt(workgroup_sum(kk) + 1e-6);
        workgroup_sync();
        float keep = exp(rate * softplus(a[p.a_at + t * p.a_stride + h] + shift));
        float beta = sigmoid(b[p.b_at + t * p.b_stride + h]);
        float delta = 0.0;
        for (uint i = 0; i < DK; i += STEP) {
            [[unroll]] for (uint e = 0; e < STEP; ++e) {
                s[i + e] *= keep;
                delta += key[i + e] * s[i + e];
            }
        }
        uint to = p.v_at + t * p.v_stride + h * p.dv + column;
        float value = mine ? v[to] : 0.0;
        delta = (value - delta * k_scale) * beta * k_scale;
        float sum = 0.0;
        for (uint i = 0; i < DK; i += STEP) {
            [[unroll]] for (uint e = 0; e < STEP; ++e) {
                s[i + e] += key[i + e] * delta;
                sum += query[i + e] * s[i + e];
            }
        }
        if (mine) o[p.o_at + t * p.o_stride + h * p.dv + column] = sum * q_scale;
        uint kept = meta[p.state_out + t];
        if (mine && kept < p.slots) {
            for (uint i = 0; i < DK; ++i) state[cell + kept * p.slot_stride + i * p.dv] = s[i];
        }
        workgroup_sync();
    }
}
