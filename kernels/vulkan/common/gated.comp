// op: gated products. y = act(gate)·up; the nonlinearity is specialization
// constant 3, as numbered in `gated.rs`.
// up, y f32 [R, len], gate the same or [R, 1]; rows strided, contiguous inside.
// Launch: x over the elements of a row, y over rows. Tolerance 2e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/silu.glsl"

layout(constant_id = 3) const uint ACT = 0;
const uint SILU = 0;
const uint GELU_TANH = 1;
const uint GELU = 2;
const uint SIGMOID = 3;
const uint IDENTITY = 4;
const uint SWIGLU_OAI = 5;

layout(set = 0, binding = 0, scalar) readonly buffer Gate { float gate[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Up { float up[]; };
layout(set = 0, binding = 2, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(3)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint len;
    uint gate_at, gate_stride;
    uint up_at, up_stride;
    uint y_at, y_stride;
    // Between the gates of neighbours: 0 where one serves the row.
    uint gate_step;
} p;

// 1 − erf(x) for x ≥ 0, off by less than 1.5e-7 (Abramowitz and Stegun 7.1.26).
float erfc_positive(float x) {
    float t = 1.0 / (1.0 + 0.3275911 * x);
    float poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return poly * exp(-x * x);
}

// Clipping and slope of GPT-OSS.
const float LIMIT = 7.0;
const float SLOPE = 1.702;

float gated(float g, float u) {
    if (ACT == SILU) return silu(g) * u;
    // ½(1 + tanh z) is σ(2z).
    if (ACT == GELU_TANH) return g * sigmoid(1.5957691 * (g + 0.044715 * g * g * g)) * u;
    if (ACT == GELU) {
        float half_tail = 0.5 * erfc_positive(abs(g) * 0.70710678);
        return g * (g >= 0.0 ? 1.0 - half_tail : half_tail) * u;
    }
    if (ACT == SIGMOID) return sigmoid(g) * u;
    if (ACT == IDENTITY) return g * u;
    float c = min(g, LIMIT);
    return c * sigmoid(SLOPE * c) * (clamp(u, -LIMIT, LIMIT) + 1.0);
}

void main() {
    uint i = gl_GlobalInvocationID.x;
    uint r = gl_WorkGroupID.y;
    if (i >= p.len || r >= REAL_ROWS(p.rows)) return;
    float g = gate[p.gate_at + r * p.gate_stride + i * p.gate_step];
    y[p.y_at + r * p.y_stride + i] = gated(g, up[p.up_at + r * p.up_stride + i]);
}
