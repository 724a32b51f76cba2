// op: expert_linear, many rows. y[t, j] = Σₖ t(x[t, j, k])·t(w[e·N + n, k]) (+ bias[e·N +
// n]), e the j-th expert that row t chose, t rounding to bf16.
// x in 16 bits [T, k, K] or [T, K] in the workspace, w [E·N, K] f32, f16 or bf16
// row-major or a block scheme in the layout `grouped`, bias f32 [E·N], y f32 [T, k, N],
// K a multiple of 32.
// Launch: see `common/coopmat.glsl`; tiles of the lists are x, of columns y. Tolerance
// as of linear.
#version 460
#extension GL_GOOGLE_include_directive : require
#define BRAIN
#define EXPERTS
#include "../common/base.glsl"
#include "../common/stored.glsl"
#include "../common/blocks.glsl"
#include "../common/coopmat.glsl"
