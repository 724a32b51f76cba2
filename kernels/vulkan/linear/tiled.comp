// op: linear, many rows. y[r, n] = Σₖ x[r, k]·w[n, k] (+ bias[n]).
// x f32 [R, K], w [N, K] f32, f16 or bf16 row-major or a block scheme in the
// layout `grouped`, bias f32 [N], y f32 [R, N].
// Launch: 64 lanes for each tile of 32 columns (x) and 32 rows (y); each lane
// sums 4 by 4 elements over K in order, 32 columns of K at a time through shared
// memory. Tolerance 2e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/stored.glsl"
#include "../common/blocks.glsl"

const uint TILE = 32;
const uint DEPTH = 32;
// One more than DEPTH, so that neighbours lie in different banks.
const uint PITCH = 33;

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 1, scalar) readonly buffer W { uint w[]; };
layout(set = 0, binding = 1, scalar) readonly buffer W4 { uvec4 w4[]; };
layout(set = 0, binding = 2, scalar) readonly buffer Bias { float bias[]; };
layout(set = 0, binding = 3, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(4)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint n, k;
    uint x_at, x_stride;
    uint w_at, w_stride;
    uint bias_at, has_bias;
    uint y_at, y_stride;
} p;

GROUP_READER(read_w, w, w4)

shared float x_tile[TILE * PITCH];
shared float w_tile[TILE * PITCH];

void main() {
    uint rows = REAL_ROWS(p.rows);
    uint n0 = gl_WorkGroupID.x * TILE;
    uint r0 = gl_WorkGroupID.y * TILE;
    if (r0 >= rows) return;
    uint lane = gl_LocalInvocationID.x;
    uint col = lane % 8;
    uint row = lane / 8;
    float acc[4][4];
    for (uint i = 0; i < 4; ++i) for (uint j = 0; j < 4; ++j) acc[i][j] = 0.0;
    for (uint k0 = 0; k0 < p.k; k0 += DEPTH) {
        for (uint e = lane; e < TILE * DEPTH; e += 64) {
            uint d = e % DEPTH;
            uint t = e / DEPTH;
            uint k = k0 + d;
            bool in_x = k < p.k && r0 + t < rows;
            x_tile[t * PITCH + d] = in_x ? x[p.x_at + (r0 + t) * p.x_stride + k] : 0.0;
            if (!IN_BLOCKS) {
                float v = 0.0;
                if (k < p.k && n0 + t < p.n) {
                    uint at = p.w_at + (n0 + t) * p.w_stride + k;
                    v = STORED(w, at);
                }
                w_tile[t * PITCH + d] = v;
            }
        }
        if (IN_BLOCKS) {
            // Two lanes for each group of a column.
            uint t = lane / 2;
            uint row = p.w_at + min(n0 + t, p.n - 1) * p.w_stride;
            Group b = read_w(row, p.k / 32, k0 / 32);
            for (uint i = 0; i < 4; ++i) {
                uint q = (lane & 1u) * 4 + i;
                vec4 v = quad_values(b, q);
                uint at = t * PITCH + 4 * q;
                w_tile[at] = v.x;
                w_tile[at + 1] = v.y;
                w_tile[at + 2] = v.z;
                w_tile[at + 3] = v.w;
            }
        }
        barrier();
        for (uint d = 0; d < DEPTH; ++d) {
            float a[4];
            float b[4];
            for (uint i = 0; i < 4; ++i) {
                a[i] = x_tile[(row + 8 * i) * PITCH + d];
                b[i] = w_tile[(col + 8 * i) * PITCH + d];
            }
            for (uint i = 0; i < 4; ++i) {
                for (uint j = 0; j < 4; ++j) acc[i][j] += a[i] * b[j];
            }
        }
        barrier();
    }
    for (uint j = 0; j < 4; ++j) {
        uint n = n0 + col + 8 * j;
        if (n >= p.n) continue;
        float add = p.has_bias != 0 ? bias[p.bias_at + n] : 0.0;
        for (uint i = 0; i < 4; ++i) {
            uint r = r0 + row + 8 * i;
            if (r < rows) y[p.y_at + r * p.y_stride + n] = acc[i][j] + add;
        }
    }
}
