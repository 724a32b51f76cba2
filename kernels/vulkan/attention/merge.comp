// The second half of `split.comp`: o from the partial results of a head's splits, in
// their order, and its sink.
// parts f32 [T, heads, splits, D + 2], sinks f32 [heads]?, o f32 [T, heads, D], rows
// strided.
// Launch: one workgroup for each (head, row).
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"

const uint MOST_SPLITS = 64;

layout(set = 0, binding = 0, scalar) readonly buffer Parts { float parts[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Sinks { float sinks[]; };
layout(set = 0, binding = 2, scalar) writeonly buffer O { float o[]; };
STEP_BUFFER(3)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint heads, dim, splits;
    uint parts_at;
    uint sinks_at, has_sinks;
    uint o_at, o_stride;
    uint positions;
    uint window;
    // Lanes of the first half's workgroups.
    uint lanes;
} p;

shared float share[MOST_SPLITS];

void main() {
    uint head = gl_WorkGroupID.x;
    uint t = gl_WorkGroupID.y;
    if (t >= REAL_ROWS(p.rows)) return;
    uint lane = gl_LocalInvocationID.x;
    uint from = p.parts_at + (t * p.heads + head) * p.splits * (p.dim + 2);
    // As the first half dealt the positions.
    uint position = meta[p.positions + t];
    uint first = p.window != 0 && position + 1 > p.window ? position + 1 - p.window : 0;
    uint each = (position + p.splits - first) / p.splits;
    each = (each + p.lanes - 1) / p.lanes * p.lanes;
    uint used = (position + each - first) / each;
    for (uint s = lane; s < used; s += WG) share[s] = parts[from + s * (p.dim + 2) + p.dim];
    barrier();
    float sink = p.has_sinks != 0 ? sinks[p.sinks_at + head] : -3.0e38;
    float top = sink;
    for (uint s = 0; s < used; ++s) top = max(top, share[s]);
    barrier();
    for (uint s = lane; s < used; s += WG) share[s] = exp(share[s] - top);
    barrier();
    float sum = p.has_sinks != 0 ? exp(sink - top) : 0.0;
    for (uint s = 0; s < used; ++s) sum += parts[from + s * (p.dim + 2) + p.dim + 1] * share[s];
    for (uint d = lane; d < p.dim; d += WG) {
        float v = 0.0;
        for (uint s = 0; s < used; ++s) v += parts[from + s * (p.dim + 2) + d] * share[s];
        o[p.o_at + t * p.o_stride + head * p.dim + d] = v / sum;
    }
}
