// op: linear, many rows. y[r, n] = Σₖ t(x[r, k])·t(w[n, k]) (+ bias[n]), t rounding to
// f16.
// x in 16 bits [R, K] in the workspace, w [N, K] f32, f16 or bf16 row-major or a block
// scheme in the layout `grouped`, bias f32 [N], y f32 [R, N], K a multiple of 32.
// Launch: see `common/coopmat.glsl`; tiles of rows are x, of columns y. Tolerance 1e-4, and
// 2e-3 of weights that f16 does not hold.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/stored.glsl"
#include "../common/blocks.glsl"
#include "../common/coopmat.glsl"
