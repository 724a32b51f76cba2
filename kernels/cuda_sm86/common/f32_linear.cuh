// What kernels of f32 weights are given; `tf32x3.rs` fills it in.
#pragma once
#include "base.cuh"

struct Args {
    const float* x;
    const float* w;
    const float* bias;
    float* y;
    const u32* count;
    u32 n, k, x_stride, y_stride, aligned;
};
