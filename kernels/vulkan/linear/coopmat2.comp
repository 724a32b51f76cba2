// op: linear, many rows. y[r, n] = Σₖ t(x[r, k])·t(w[n, k]) (+ bias[n]), t rounding to
// bf16. x bf16 [R, K] in the workspace, w bf16 [N, K] there or where it is stored, rows of
// both up to whole tiles, bias f32 [N], y f32 [R, N], K a multiple of 32.
// Launch: see `common/coopmat2.glsl`; tiles of rows are x, of columns y. Tolerance 1e-4.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/coopmat2.glsl"
