// op: exp_sum. Weights e^((logit - m) * t), at most 1, in units of 2^-40 rounded down,
// summed as u64 over each of `parts` runs of a row's logits, low word first; m is the first
// logit of top, t the row's in the step buffer. A row whose m is not finite sums to 0.
// logits f32 [R, V], rows strided; top u32 [R, k, 2]; sums u32 [R, parts, 2].
// Launch: a block for each (part, row). Exact: every operation on f32 is rounded by itself,
// in the order of sampling::Weigh, and sums are of integers.
#include "../common/base.cuh"

struct Args {
    const float* x;
    const u32* top;
    u32* sums;
    const u32* count;
    // The rows' t, as bits.
    const u32* inv_temps;
    // Logits of a row, and of a part.
    u32 len, run;
    u32 x_stride, top_stride, sums_stride;
};

enum { THREADS = 256 };

DEVICE u64 weight(float logit, float m, float t) {
    const float ROUND = 12582912.0f;
    float y = __fmul_rn(__fsub_rn(logit, m), t);
    if (y > 0.0f) y = 0.0f;
    if (!(y > -87.0f)) return 0;
    const float shifted = __fadd_rn(__fmul_rn(y, __uint_as_float(0x3fb8aa3bu)), ROUND);
    const float n = __fsub_rn(shifted, ROUND);
    const float near = __fsub_rn(y, __fmul_rn(n, __uint_as_float(0x3f317200u)));
    const float r = __fsub_rn(near, __fmul_rn(n, __uint_as_float(0x35bfbe8eu)));
    const u32 terms[7] = {0x3ab60b61u, 0x3c088889u, 0x3d2aaaabu, 0x3e2aaaabu, 0x3f000000u, 0x3f800000u, 0x3f800000u};
    float e = __uint_as_float(0x39500d01u);
#pragma unroll
    for (int i = 0; i < 7; ++i) e = __fadd_rn(__fmul_rn(e, r), __uint_as_float(terms[i]));
    const u32 exponent = __float_as_uint(shifted) - __float_as_uint(ROUND) + 127u;
    const float w = __fmul_rn(e, __uint_as_float(exponent << 23));
    // A power of two more is exact.
    return __float2ull_rz(__fmul_rn(w, 1099511627776.0f));
}

KERNEL __launch_bounds__(THREADS) exp_sum(const __grid_constant__ Args p) {
    __shared__ u64 warps[THREADS / 32];
    start_next();
    const u32 rows = real_rows(p.count), r = blockIdx.y, part = blockIdx.x;
    wait_for_previous();
    if (r >= rows) return;
    const u32 bits = p.top[(u64)r * p.top_stride + 1];
    const float m = __uint_as_float(bits), t = __uint_as_float(p.inv_temps[r]);
    const u32 end = min((part + 1) * p.run, p.len);
    u64 sum = 0;
    if ((bits & 0x7fffffffu) < 0x7f800000u) {
        const float* x = p.x + (u64)r * p.x_stride;
#pragma unroll 4
        for (u32 i = part * p.run + threadIdx.x; i < end; i += THREADS) sum += weight(x[i], m, t);
    }
#pragma unroll
    for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    if ((threadIdx.x & 31) == 0) warps[threadIdx.x >> 5] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    sum = 0;
#pragma unroll
    for (u32 i = 0; i < THREADS / 32; ++i) sum += warps[i];
    u32* to = p.sums + (u64)r * p.sums_stride + 2 * part;
    to[0] = (u32)sum;
    to[1] = (u32)(sum >> 32);
}
