// Products with one of several matrices that are stacked to [parts·N, K]: the
// experts that a row chose, or the matrix of each head.
#pragma once
#include "base.cuh"

struct Stacked {
    const float* x;
    const void* w;
    // [T, parts], or null: part j for the j-th.
    const u32* chosen;
    const float* bias;
    float* y;
    const u32* count;
    // Of the other factor, where the first is a gate.
    const void* up;
    const float* up_bias;
    u32 k, chunks, aligned, n, stack, parts, x_stride, x_part, chosen_stride, y_stride;
};

// The matrix of the block's (row, part), and its x and y. Rows behind the last and
// experts that do not exist have none.
DEVICE bool stacked_part(const Stacked& p, u32& e, const float*& x, float*& y) {
    const u32 t = blockIdx.y / p.parts, j = blockIdx.y % p.parts;
    if (t >= real_rows(p.count)) return false;
    e = p.chosen ? p.chosen[(u64)t * p.chosen_stride + j] : j;
    x = p.x + (u64)t * p.x_stride + (u64)j * p.x_part;
    y = p.y + (u64)t * p.y_stride + (u64)j * p.n;
    return e < p.stack;
}
