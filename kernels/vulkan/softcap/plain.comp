// op: softcap. y = cap·tanh(x/cap).
// x, y f32 [R, len], rows strided, contiguous inside.
// Launch: x over the elements of a row, y over rows. Tolerance 2e-5.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/pointwise.glsl"
#include "../common/tanh.glsl"

void main() {
    if (POINT_IS_OUTSIDE) return;
    y[POINT_TO] = p.value * exact_tanh(x[POINT_FROM] / p.value);
}
