// op: causal_conv. y[t, c] = act(Σᵢ w[c, i]·x[t − kernel + 1 + i, c] + bias[c]) over
// the rows of a sequence; what lies before a span's first row comes from its state.
// x, y f32 [T, C], rows strided, w f32 [C·kernel], bias f32 [C]?, state f32
// [kernel − 1, C] per slot, oldest first.
// Launch: x over channels, y over rows; a lane also keeps the state behind its
// row. Taps are summed oldest first. Tolerance 2e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/silu.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 1, scalar) readonly buffer W { float w[]; };
layout(set = 0, binding = 2, scalar) buffer State { float state[]; };
layout(set = 0, binding = 3, scalar) readonly buffer Bias { float bias[]; };
layout(set = 0, binding = 4, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(5)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint channels, kernel;
    uint x_at, x_stride;
    uint w_at;
    uint state_at, slot_stride, slots;
    uint bias_at, has_bias;
    uint y_at, y_stride;
    uint row_span, span_start, state_in, state_out;
    uint with_silu;
} p;

void main() {
    uint c = gl_GlobalInvocationID.x;
    uint t = gl_WorkGroupID.y;
    if (c >= p.channels || t >= REAL_ROWS(p.rows)) return;
    uint span = meta[p.row_span + t];
    uint start = meta[p.span_start + span];
    uint from = meta[p.state_in + span];
    uint to = meta[p.state_out + t];
    uint past = p.kernel - 1;
    float sum = 0.0;
    for (uint i = 0; i < p.kernel; ++i) {
        float v = 0.0;
        // Row t − past + i, or what the state has of it.
        if (t + i >= start + past) {
            v = x[p.x_at + (t + i - past) * p.x_stride + c];
        } else if (from < p.slots) {
            v = state[p.state_at + from * p.slot_stride + (t + i - start) * p.channels + c];
        }
        sum += v * w[p.w_at + c * p.kernel + i];
        if (i > 0 && to < p.slots) {
            state[p.state_at + to * p.slot_stride + (i - 1) * p.channels + c] = v;
        }
    }
    if (p.has_bias != 0) sum += bias[p.bias_at + c];
    y[p.y_at + t * p.y_stride + c] = p.with_silu != 0 ? silu(sum) : sum;
}
