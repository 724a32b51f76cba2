// op: scale. y = factor·x.
// x, y f32 [R, len], rows strided, contiguous inside.
// Launch: x over the elements of a row, y over rows. Exact.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/pointwise.glsl"

void main() {
    if (POINT_IS_OUTSIDE) return;
    y[POINT_TO] = p.value * x[POINT_FROM];
}
