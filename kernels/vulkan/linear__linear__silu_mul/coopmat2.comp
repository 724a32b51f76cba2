// op: linear+linear+silu_mul, many rows. y[r, n] = silu(Σₖ t(x[r, k])·t(w_gate[n, k]))·
// Σₖ t(x[r, k])·t(w_up[n, k]), t rounding to bf16.
// x bf16 [R, K] in the workspace, w_gate, w_up bf16 [N, K] there or where they are
// stored, rows of all up to whole tiles, y f32 [R, N], K a multiple of 32.
// Launch: see `common/coopmat2.glsl`; tiles of rows are x, of columns y.
#version 460
#extension GL_GOOGLE_include_directive : require
#define GATED
#include "../common/base.glsl"
#include "../common/silu.glsl"
#include "../common/coopmat2.glsl"
