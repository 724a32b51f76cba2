// Products of up to three matrices with the same few rows, activations in int8, and
// what stands around them: an rms_norm ahead, silu(first)·second or an add behind.
// x f32 [R, K], norm f32 [K], w [Nᵢ, K] of one block scheme in the layout `grouped`,
// biases f32 [Nᵢ], added f32 [R, N], yᵢ f32 [R, Nᵢ].
// Launch: each workgroup norms and rounds x for itself; its teams take one output
// column each, of all matrices in turn, striding over them.
// Tolerance 2e-5 of a product alone; 4e-3 behind a norm, whose last bit may turn a
// rounding.
// With NORM_BEHIND the last workgroup that is done makes z = norm(y) of one row.
#include "base.glsl"
#include "reduce.glsl"
#include "stored.glsl"
#include "blocks.glsl"
#include "gemv.glsl"

layout(constant_id = 10) const bool NORMED = false;
layout(constant_id = 11) const bool GATED = false;
layout(constant_id = 12) const bool ADDED = false;
layout(constant_id = 13) const uint COUNT = 1;

shared float row_scales[ROWS];
#define PREPARED(v, j, q) if (NORMED) v = v * row_scales[j] * norm_quad(q);
vec4 norm_quad(uint q);

#include "gemv_q8.glsl"
#include "silu.glsl"
#ifdef NORM_BEHIND
#include "last.glsl"
#endif

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 0, scalar) readonly buffer X4 { vec4 x4[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Norm { float norm[]; };
layout(set = 0, binding = 2, scalar) readonly buffer W { uint w[]; };
layout(set = 0, binding = 2, scalar) readonly buffer W4 { uvec4 w4[]; };
layout(set = 0, binding = 3, scalar) readonly buffer V { uint v[]; };
layout(set = 0, binding = 3, scalar) readonly buffer V4 { uvec4 v4[]; };
layout(set = 0, binding = 4, scalar) readonly buffer U { uint u[]; };
layout(set = 0, binding = 4, scalar) readonly buffer U4 { uvec4 u4[]; };
layout(set = 0, binding = 5, scalar) readonly buffer Added { float added[]; };
#ifdef NORM_BEHIND
layout(set = 0, binding = 6, scalar) coherent buffer Y { float y[]; };
COUNTER(13)
#else
layout(set = 0, binding = 6, scalar) writeonly buffer Y { float y[]; };
#endif
layout(set = 0, binding = 7, scalar) writeonly buffer Z { float z[]; };
layout(set = 0, binding = 8, scalar) writeonly buffer T { float t[]; };
STEP_BUFFER(9)
layout(set = 0, binding = 10, scalar) readonly buffer WBias { float w_bias[]; };
layout(set = 0, binding = 11, scalar) readonly buffer VBias { float v_bias[]; };
layout(set = 0, binding = 12, scalar) readonly buffer UBias { float u_bias[]; };

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint k, w_stride;
    uint x_at, x_stride;
    uint norm_at;
    uint w_at, v_at, u_at;
    // Columns of the first two matrices, and of all.
    uint w_n, v_n, n;
    uint added_at, added_stride;
    uint y_at, y_stride;
    uint z_at, z_stride;
    uint t_at, t_stride;
    uint aligned;
    float eps, weight_offset;
    uint w_bias_at, v_bias_at, u_bias_at;
    // A bit for each matrix that has a bias.
    uint biased;
} p;

GROUP_READER(read_w, w, w4)
GROUP_READER(read_v, v, v4)
GROUP_READER(read_u, u, u4)

vec4 norm_quad(uint q) {
    uint at = p.norm_at + 4 * q;
    return vec4(norm[at], norm[at + 1], norm[at + 2], norm[at + 3]) + p.weight_offset;
}

// Rows past the last read the last again.
#define X_ROW(j) (p.x_at + min(r0 + (j), rows - 1) * p.x_stride)

// Where column n of all matrices begins: in one of them.
#define OF_FIRST(c) (p.w_at + n * p.w_stride)
#define OF_SECOND(c) (p.v_at + (n - p.w_n) * p.w_stride)
#define OF_THIRD(c) (p.u_at + (n - p.w_n - p.v_n) * p.w_stride)
#define OF_UP(c) (p.v_at + n * p.w_stride)

// Groups i of column `of`, and where there are gates of both matrices'.
#define FETCH_PART(of, i, from)                                   \
    {                                                             \
        uint n = min(of, p.n - 1);                                \
        if (COUNT > 1 && !GATED && n >= p.w_n) {                  \
            if (COUNT > 2 && n >= p.w_n + p.v_n) {                \
                FETCH_ONE(first, read_u, OF_THIRD, i, from)       \
            } else {                                              \
                FETCH_ONE(first, read_v, OF_SECOND, i, from)      \
            }                                                     \
        } else {                                                  \
            FETCH_ONE(first, read_w, OF_FIRST, i, from)           \
        }                                                         \
        if (GATED) {                                              \
            FETCH_ONE(second, read_v, OF_UP, i, from)             \
        }                                                         \
    }

void norm_rows(uint r0, uint rows) {
    for (uint j = 0; j < ROWS; ++j) {
        float s = 0.0;
        for (uint q = gl_LocalInvocationID.x; q < p.k / 4; q += WG) {
            RAW_QUAD(v, j, q)
            s += dot(v, v);
        }
        s = workgroup_sum(s);
        if (gl_LocalInvocationID.x == 0) row_scales[j] = inversesqrt(s / float(p.k) + p.eps);
    }
    workgroup_sync();
}

float w_bias_of(uint n) {
    return (p.biased & 1u) != 0 ? w_bias[p.w_bias_at + n] : 0.0;
}

float v_bias_of(uint n) {
    return (p.biased & 2u) != 0 ? v_bias[p.v_bias_at + n] : 0.0;
}

void store(uint n, uint r, float v) {
    if (COUNT > 1 && !GATED && n >= p.w_n) {
        n -= p.w_n;
        if (COUNT > 2 && n >= p.v_n) {
            n -= p.v_n;
            if ((p.biased & 4u) != 0) v += u_bias[p.u_bias_at + n];
            t[p.t_at + r * p.t_stride + n] = v;
        } else {
            z[p.z_at + r * p.z_stride + n] = v + v_bias_of(n);
        }
        return;
    }
    if (!GATED) v += w_bias_of(n);
    if (ADDED) v += added[p.added_at + r * p.added_stride + n];
    y[p.y_at + r * p.y_stride + n] = v;
}

void main() {
    uint rows = REAL_ROWS(p.rows);
    uint lane = team_lane();
    for (uint r0 = 0; r0 < rows; r0 += ROWS) {
        uint n0 = team_index();
        Raw first[AHEAD];
        Raw second[AHEAD];
        [[unroll]] for (uint i = 0; i < AHEAD; ++i) FETCH_PART(n0, i, 0)
        if (NORMED) norm_rows(r0, rows);
        ROUND_X()
        while (n0 < p.n) {
            float acc[ROWS];
            float acc_up[ROWS];
            for (uint j = 0; j < ROWS; ++j) {
                acc[j] = 0.0;
                acc_up[j] = 0.0;
            }
            uint n = n0;
            for (uint from = 0; from < p.k / 32; from += AHEAD * TEAM) {
                // What is multiplied makes room for what comes next, in this column or
                // the team's next.
                uint next = from + AHEAD * TEAM;
                if (next >= p.k / 32) {
                    next = 0;
                    n0 += team_count();
                }
                [[unroll]] for (uint i = 0; i < AHEAD; ++i) {
                    MULTIPLY_ONE(acc, first, i, from)
                    if (GATED) {
                        MULTIPLY_ONE(acc_up, second, i, from)
                    }
                    if (n0 < p.n) FETCH_PART(n0, i, next)
                }
            }
            for (uint j = 0; j < ROWS; ++j) {
                float v = team_sum(acc[j]);
                if (GATED) v = silu(v + w_bias_of(n)) * (team_sum(acc_up[j]) + v_bias_of(n));
                if (lane == 0 && r0 + j < rows) store(n, r0 + j, v);
            }
        }
        workgroup_sync();
    }
#ifdef NORM_BEHIND
    if (rows == 0) return;
    LAST_WORKGROUP(last)
    if (last) NORM_ROW(y, p.y_at, p.n, norm, p.norm_at, z, p.z_at, p.eps, p.weight_offset)
#endif
}
