// The second half of `split.comp`: o from the partial results of a head's splits, in
// their order, and its sink.
// parts f32 [T, heads, splits, D + 2], sinks f32 [heads]?, o f32 [T, heads, D], rows
// strided.
// Launch: one workgroup for each (head, row).
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"

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

// Factors of the splits.
shared float share[MOST_SPLITS];
// Partial results that are loaded before the first is used.
const uint AHEAD = 8;

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
    float sink = p.has_sinks != 0 ? sinks[p.sinks_at + head] : -3.0e38;
    float top = sink;
    for (uint s = lane; s < used; s += WG) {
        float highest = parts[from + s * (p.dim + 2) + p.dim];
        share[s] = highest;
        top = max(top, highest);
    }
    top = workgroup_max(top);
    float sum = 0.0;
    for (uint s = lane; s < used; s += WG) {
        float factor = exp(share[s] - top);
        share[s] = factor;
        sum += parts[from + s * (p.dim + 2) + p.dim + 1] * factor;
    }
    sum = workgroup_sum(sum);
    if (p.has_sinks != 0) sum += exp(sink - top);
    workgroup_sync();
    for (uint d = lane; d < p.dim; d += WG) {
        float v = 0.0;
        for (uint s = 0; s < used; s += AHEAD) {
            float next[AHEAD];
            [[unroll]] for (uint i = 0; i < AHEAD; ++i) {
                next[i] = parts[from + min(s + i, used - 1) * (p.dim + 2) + d];
            }
            [[unroll]] for (uint i = 0; i < AHEAD; ++i) {
                if (s + i < used) v += next[i] * share[s + i];
            }
        }
        o[p.o_at + t * p.o_stride + head * p.dim + d] = v / sum;
    }
}
