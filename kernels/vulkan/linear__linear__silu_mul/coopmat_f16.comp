// op: linear+linear+silu_mul, many rows. y[r, n] = silu(Σₖ t(x[r, k])·t(w_gate[n, k]))·
// Σₖ t(x[r, k])·t(w_up[n, k]), t rounding to f16.
// x in 16 bits [R, K] in the workspace, w_gate, w_up [N, K] of one scheme, f32, f16 or
// bf16 row-major or blocks in the layout `grouped`, y f32 [R, N], K a multiple of 32.
// Launch: see `common/coopmat.glsl`; tiles of rows are x, of columns y.
#version 460
#extension GL_GOOGLE_include_directive : require
#define GATED
#include "../common/base.glsl"
#include "../common/stored.glsl"
#include "../common/blocks.glsl"
#include "../common/silu.glsl"
#include "../common/coopmat.glsl"
