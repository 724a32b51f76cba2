// op: rope_table. table[t, i] = cos(a)·f, table[t, half + i] = sin(a)·f with
// a = positions[t]·inv_freq[i] in f32 and f = attention_factor.
// inv_freq f32 [half], table f32 [T, 2·half], rows strided.
// Launch: x over half, y over rows. Tolerance 2e-6.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/angle.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer Freq { float inv_freq[]; };
layout(set = 0, binding = 1, scalar) writeonly buffer Table { float table[]; };
STEP_BUFFER(2)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint half_dim;
    uint freq_at;
    uint table_at, table_stride;
    uint positions;
    float factor;
} p;

void main() {
    uint i = gl_GlobalInvocationID.x;
    uint t = gl_WorkGroupID.y;
    if (i >= p.half_dim || t >= REAL_ROWS(p.rows)) return;
    float sine, cosine;
    sine_cosine(float(meta[p.positions + t]) * inv_freq[p.freq_at + i], sine, cosine);
    uint at = p.table_at + t * p.table_stride + i;
    table[at] = cosine * p.factor;
    table[at + p.half_dim] = sine * p.factor;
}
