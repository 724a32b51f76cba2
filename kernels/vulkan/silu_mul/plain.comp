// op: silu_mul. y = gate·σ(gate)·up.
// gate, up, y f32 [R, len], rows strided, contiguous inside.
// Launch: x over the elements of a row, y over rows. Tolerance 2e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/silu.glsl"

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
} p;

void main() {
    uint i = gl_GlobalInvocationID.x;
    uint r = gl_WorkGroupID.y;
    if (i >= p.len || r >= REAL_ROWS(p.rows)) return;
    float g = gate[p.gate_at + r * p.gate_stride + i];
    y[p.y_at + r * p.y_stride + i] = silu(g) * up[p.up_at + r * p.up_stride + i];
}
