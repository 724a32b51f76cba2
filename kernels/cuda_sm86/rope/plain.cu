// op: rope. For the pairs (a, b) of each head, i < rotary_dim / 2:
// y[a] = x[a]·cos[i] − x[b]·sin[i], y[b] = x[b]·cos[i] + x[a]·sin[i]. Pair i is
// (first + i, first + i + half), or, interleaved, (first + 2i, first + 2i + 1);
// other elements are copied.
// x, y f32 [T, heads, D], table f32 [T, rotary_dim] (cos then sin); rows strided.
// Launch: x over the elements of a row, y over rows. Tolerance 2e-6.
#include "../common/base.cuh"

struct Args {
    const float* x;
    const float* table;
    float* y;
    const u32* count;
    u32 len, dim, first, half_dim, interleaved, x_stride, table_stride, y_stride;
};

KERNEL rope(const Args p) {
    start_next();
    wait_for_previous();
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    u32 t = blockIdx.y;
    if (i >= p.len || t >= real_rows(p.count)) return;
    const float* x = p.x + (u64)t * p.x_stride + i;
    const float* table = p.table + (u64)t * p.table_stride;
    u32 d = i % p.dim - p.first;
    float v = *x;
    // An element before the first wraps to a large number.
    if (d < 2 * p.half_dim) {
        bool low = p.interleaved ? d % 2 == 0 : d < p.half_dim;
        u32 turn = p.interleaved ? d / 2 : d % p.half_dim;
        int other = p.interleaved ? 1 : (int)p.half_dim;
        float c = table[turn], s = table[p.half_dim + turn];
        v = low ? v * c - x[other] * s : v * c + x[-other] * s;
    }
    p.y[(u64)t * p.y_stride + i] = v;
}
