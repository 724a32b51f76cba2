// ops: causal_conv of q, of k and of v, gated_delta and maybe rms_norm and silu_mul of
// what it yields; one row, f32. See `causal_conv/plain.comp` and
// `gated_delta/recurrent.comp` for the shapes; norm f32 [DV], z, y f32 [1, heads, DV]:
// y = silu(z)·norm(o).
// Launch: a workgroup for each head and COLUMNS of its state, or for a whole head where
// there is a norm; a lane keeps every SLICES-th number of a column. Each workgroup
// convolves what it needs; one of them writes it and keeps its state. Tolerance 5e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "base.glsl"
#include "reduce.glsl"
#include "silu.glsl"
#include "softplus.glsl"

layout(constant_id = 3) const uint DK = 64;
layout(constant_id = 4) const uint DV = 64;
layout(constant_id = 5) const uint HEADS = 1;
layout(constant_id = 6) const uint KEY_HEADS = 1;
// Columns that a workgroup has in its registers at once.
layout(constant_id = 7) const uint COLUMNS = 32;
layout(constant_id = 8) const uint SLICES = 8;
layout(constant_id = 9) const uint Q_TAPS = 4;
layout(constant_id = 10) const uint K_TAPS = 4;
layout(constant_id = 11) const uint V_TAPS = 4;
// A bit each for the convolutions of q, k and v.
layout(constant_id = 12) const uint SILU = 0;
layout(constant_id = 13) const uint BIASED = 0;
layout(constant_id = 14) const bool LOG_DECAY = false;
layout(constant_id = 15) const bool TILED = false;
layout(constant_id = 16) const bool NORMED = false;

layout(set = 0, binding = 0, scalar) readonly buffer XQ { float xq[]; };
layout(set = 0, binding = 1, scalar) readonly buffer XK { float xk[]; };
layout(set = 0, binding = 2, scalar) readonly buffer XV { float xv[]; };
layout(set = 0, binding = 3, scalar) readonly buffer WQ { float wq[]; };
layout(set = 0, binding = 4, scalar) readonly buffer WK { float wk[]; };
layout(set = 0, binding = 5, scalar) readonly buffer WV { float wv[]; };
layout(set = 0, binding = 6, scalar) readonly buffer BQ { float bq[]; };
layout(set = 0, binding = 7, scalar) readonly buffer BK { float bk[]; };
layout(set = 0, binding = 8, scalar) readonly buffer BV { float bv[]; };
layout(set = 0, binding = 9, scalar) writeonly buffer YQ { float yq[]; };
layout(set = 0, binding = 10, scalar) writeonly buffer YK { float yk[]; };
layout(set = 0, binding = 11, scalar) writeonly buffer YV { float yv[]; };
// The pool of all states.
layout(set = 0, binding = 12, scalar) buffer State { float state[]; };
layout(set = 0, binding = 13, scalar) readonly buffer A { float a[]; };
layout(set = 0, binding = 14, scalar) readonly buffer B { float b[]; };
layout(set = 0, binding = 15, scalar) readonly buffer Decay { float decay[]; };
layout(set = 0, binding = 16, scalar) readonly buffer DtBias { float dt_bias[]; };
layout(set = 0, binding = 17, scalar) writeonly buffer O { float o[]; };
layout(set = 0, binding = 18, scalar) readonly buffer Norm { float norm[]; };
layout(set = 0, binding = 19, scalar) readonly buffer Z { float z[]; };
layout(set = 0, binding = 20, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(21)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint row_span, state_in, state_out;
    // Of q, k and v.
    uint x_at[3];
    uint w_at[3];
    uint bias_at[3];
    uint y_at[3];
    uint past_at[3];
    uint state_at, slot_stride, slots;
    uint a_at, b_at, decay_at, dt_bias_at;
    uint o_at;
    uint norm_at, z_at, out_at;
    float eps, weight_offset;
} p;

// Numbers of a column that a lane keeps.
const uint OWN = (DK + SLICES - 1) / SLICES;

shared float query[DK];
shared float key[DK];
shared float value[COLUMNS];
shared float sums[WG];
shared float yielded[DV];

// Defines NAME(c, writes, from, to): channel c of the convolution of this row; one of
// those who ask writes it and keeps the state behind it in slot `to`.
#define CONVOLUTION(NAME, M, X, W, BIAS, Y, TAPS, CHANNELS)                                 \
    float NAME(uint c, bool writes, uint from, uint to) {                                   \
        float v[TAPS];                                                                      \
        [[unroll]] for (uint i = 0; i + 1 < TAPS; ++i) {                                    \
            v[i] = 0.0;                                                                     \
            if (from < p.slots) v[i] = state[p.past_at[M] + from * p.slot_stride + i * (CHANNELS) + c]; \
        }                                                                                   \
        v[TAPS - 1] = X[p.x_at[M] + c];                                                     \
        float sum = 0.0;                                                                    \
        [[unroll]] for (uint i = 0; i < TAPS; ++i) sum += v[i] * W[p.w_at[M] + c * TAPS + i]; \
        if ((BIASED & (1u << M)) != 0) sum += BIAS[p.bias_at[M] + c];                       \
        if ((SILU & (1u << M)) != 0) sum = silu(sum);                                       \
        if (writes) Y[p.y_at[M] + c] = sum;                                                 \
        if (writes && to < p.slots) {                                                       \
            [[unroll]] for (uint i = 0; i + 1 < TAPS; ++i) {                                \
                state[p.past_at[M] + to * p.slot_stride + i * (CHANNELS) + c] = v[i + 1];   \
            }                                                                               \
        }                                                                                   \
        return sum;                                                                         \
    }

CONVOLUTION(query_of, 0, xq, wq, bq, yq, Q_TAPS, KEY_HEADS * DK)
CONVOLUTION(key_of, 1, xk, wk, bk, yk, K_TAPS, KEY_HEADS * DK)
CONVOLUTION(value_of, 2, xv, wv, bv, yv, V_TAPS, HEADS * DV)

// The sum over a column's slices, of which each lane brings one.
float column_sum(float v, uint own) {
    if (SLICES == 1) return v;
    sums[gl_LocalInvocationID.x] = v;
    workgroup_sync();
    float sum = 0.0;
    [[unroll]] for (uint i = 0; i < SLICES; ++i) sum += sums[own + i * COLUMNS];
    workgroup_sync();
    return sum;
}

void main() {
    if (REAL_ROWS(p.rows) == 0) return;
    const uint chunks = (DV + COLUMNS - 1) / COLUMNS;
    uint lane = gl_LocalInvocationID.x;
    uint own = lane % COLUMNS;
    uint slice = lane / COLUMNS;
    uint h = NORMED ? gl_WorkGroupID.x : gl_WorkGroupID.x / chunks;
    uint chunk = NORMED ? 0 : gl_WorkGroupID.x % chunks;
    uint end = NORMED ? chunks : chunk + 1;
    uint from = meta[p.state_in + meta[p.row_span]];
    uint to = meta[p.state_out];
    const uint group = HEADS / KEY_HEADS;
    uint key_head = TILED ? h % KEY_HEADS : h / group;
    bool first = chunk == 0 && (TILED ? h < KEY_HEADS : h % group == 0);
    uint cell = p.state_at + h * DK * DV;

    // The state comes from far: it is asked for before all else.
    float s[OWN];
#define LOAD_STATE(column)                                                                  \
    [[unroll]] for (uint i = 0; i < OWN; ++i) {                                             \
        uint d = slice + i * SLICES;                                                        \
        bool there = (column) < DV && d < DK && from < p.slots;                             \
        s[i] = there ? state[cell + from * p.slot_stride + d * DV + (column)] : 0.0;        \
    }
    LOAD_STATE(chunk * COLUMNS + own)

    float qq = 0.0;
    float kk = 0.0;
    // Lanes of their own for each, for what one stores the other's loads would wait for.
    for (uint i = lane; i < 2 * DK; i += WG) {
        if (i < DK) {
            float q = query_of(key_head * DK + i, first, from, to);
            qq += q * q;
            query[i] = q;
        } else {
            float k = key_of(key_head * DK + i - DK, first, from, to);
            kk += k * k;
            key[i - DK] = k;
        }
    }
#define MAKE_VALUE(column)                                                                  \
    if (slice == SLICES - 1 && (column) < DV) value[own] = value_of(h * DV + (column), true, from, to);
    MAKE_VALUE(chunk * COLUMNS + own)
    // What the norm is multiplied by, where a lane makes one element of it.
    float weight = 0.0;
    float gate = 0.0;
    const bool at_once = NORMED && WG >= DV;
    if (at_once) {
        weight = norm[p.norm_at + min(lane, DV - 1)];
        gate = z[p.z_at + h * DV + min(lane, DV - 1)];
    }
    float d = decay[p.decay_at + h];
    float rate = LOG_DECAY ? -exp(d) : d;
    float keep = exp(rate * softplus(a[p.a_at + h] + dt_bias[p.dt_bias_at + h]));
    float beta = sigmoid(b[p.b_at + h]);
    float q_scale = 1.0 / (sqrt(workgroup_sum(qq) + 1e-6) * sqrt(float(DK)));
    float k_scale = 1.0 / sqrt(workgroup_sum(kk) + 1e-6);
    for (; chunk < end; ++chunk) {
        uint column = chunk * COLUMNS + own;
        if (NORMED && chunk > 0) {
            LOAD_STATE(column)
            MAKE_VALUE(column)
        }
        workgroup_sync();
        float delta = 0.0;
        [[unroll]] for (uint i = 0; i < OWN; ++i) {
            uint d = slice + i * SLICES;
            s[i] *= keep;
            if (d < DK) delta += key[d] * s[i];
        }
        delta = column_sum(delta, own);
        delta = column < DV ? (value[own] - delta * k_scale) * beta * k_scale : 0.0;
        float sum = 0.0;
        [[unroll]] for (uint i = 0; i < OWN; ++i) {
            uint d = slice + i * SLICES;
            if (d < DK) {
                s[i] += key[d] * delta;
                sum += query[d] * s[i];
            }
        }
        sum = column_sum(sum, own) * q_scale;
        if (slice == 0 && column < DV) {
            o[p.o_at + h * DV + column] = sum;
            yielded[column] = sum;
        }
        if (column < DV && to < p.slots) {
            [[unroll]] for (uint i = 0; i < OWN; ++i) {
                uint d = slice + i * SLICES;
                if (d < DK) state[cell + to * p.slot_stride + d * DV + column] = s[i];
            }
        }
        workgroup_sync();
    }
    if (!NORMED) return;
    float squares = 0.0;
    for (uint i = lane; i < DV; i += WG) squares += yielded[i] * yielded[i];
    float scale = inversesqrt(workgroup_sum(squares) / float(DV) + p.eps);
    for (uint i = lane; i < DV; i += WG) {
        if (!at_once) {
            weight = norm[p.norm_at + i];
            gate = z[p.z_at + h * DV + i];
        }
        y[p.out_at + h * DV + i] = silu(gate) * (yielded[i] * scale * (weight + p.weight_offset));
    }
}
