// op: expert_linear, many rows. y[t, j] = Σₖ t(x[t, j, k])·t(w[e·N + n, k]) (+ bias[e·N +
// n]), e the j-th expert that row t chose, t rounding to bf16.
// x bf16 [T·k, K] in the workspace, in the experts' order, w bf16 [E·N, K] there or where
// it is stored, rows of both up to whole tiles, bias f32 [E·N], y f32 [T, k, N], K a
// multiple of 32.
// Launch: see `common/coopmat2.glsl`; tiles of the lists are x, of columns y. Tolerance
// as of linear.
#version 460
#extension GL_GOOGLE_include_directive : require
#define EXPERTS
#include "../common/base.glsl"
#include "../common/coopmat2.glsl"
