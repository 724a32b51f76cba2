// The second half of `split.comp`: o from the partial results of a head's splits, in
// their order, and its sink.
// parts f32 [T, heads, splits, D + 2], sinks f32 [heads]?, o f32 [T, heads, D], rows
// strided.
// Launch: one workgroup for each (head, row).
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"

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
} p;

void main() {
    uint head = gl_WorkGroupID.x;
    uint t = gl_WorkGroupID.y;
    if (t >= REAL_ROWS(p.rows)) return;
    uint from = p.parts_at + (t * p.heads + head) * p.splits * (p.dim + 2);
    float top = p.has_sinks != 0 ? sinks[p.sinks_at + head] : -3.0e38;
    float sum = 0.0;
    for (uint s = 0; s < p.splits; ++s) {
        uint at = from + s * (p.dim + 2) + p.dim;
        if (parts[at + 1] > 0.0) top = max(top, parts[at]);
    }
    if (p.has_sinks != 0) sum = exp(sinks[p.sinks_at + head] - top);
    for (uint s = 0; s < p.splits; ++s) {
        uint at = from + s * (p.dim + 2) + p.dim;
        if (parts[at + 1] > 0.0) sum += parts[at + 1] * exp(parts[at] - top);
    }
    for (uint d = gl_LocalInvocationID.x; d < p.dim; d += WG) {
        float v = 0.0;
        for (uint s = 0; s < p.splits; ++s) {
            uint at = from + s * (p.dim + 2);
            if (parts[at + p.dim + 1] > 0.0) v += parts[at + d] * exp(parts[at + p.dim] - top);
        }
        o[p.o_at + t * p.o_stride + head * p.dim + d] = v / sum;
    }
}
