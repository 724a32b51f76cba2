// op: rotate. x·scales, then in each group of `group` elements `rounds` times group/2
// Givens rotations: with (i, j) the t-th pair of round r and θ its angle, xᵢ' =
// xᵢ·cos θ + xⱼ·sin θ, xⱼ' = xⱼ·cos θ − xᵢ·sin θ.
// x, y f32 [R, …, K], theta f32 [rounds·K/2], pairs f32 [rounds·K] (whole numbers,
// local to their group), scales f32 [K]. The maths: ParoQuant.
// Launch: a block for each group (x) of up to ROWS rows (y), a thread for each pair; the
// pairs of a round are disjoint, so threads take them in any order, and a pair's sine
// serves all rows. Dynamic shared memory: ROWS · group · 4 bytes. Tolerance 2e-5.
#include "../common/base.cuh"

struct Args {
    const float* x;
    const float* theta;
    const float* pairs;
    const float* scales;
    float* y;
    const u32* count;
    u32 width, rounds, group, x_stride, y_stride;
};

enum { ROWS = 4 };

KERNEL rotate(const Args p) {
    extern __shared__ float turned[];
    start_next();
    wait_for_previous();
    const u32 rows = real_rows(p.count), r0 = blockIdx.y * ROWS;
    if (r0 >= rows) return;
    const u32 have = min(rows - r0, (u32)ROWS), first = blockIdx.x * p.group;
    // A row may hold several vectors of the rotation's width.
    const u32 local = first % p.width;
    for (u32 i = threadIdx.x; i < p.group; i += blockDim.x) {
        const float s = p.scales[local + i];
        for (u32 r = 0; r < have; ++r) turned[r * p.group + i] = p.x[(u64)(r0 + r) * p.x_stride + first + i] * s;
    }
    __syncthreads();
    for (u32 round = 0; round < p.rounds; ++round) {
        for (u32 t = threadIdx.x; t < p.group / 2; t += blockDim.x) {
            const u64 at = (u64)round * p.width + local + 2 * t;
            // The loader refuses pairs outside of their group.
            const u32 i = min((u32)p.pairs[at], p.group - 1), j = min((u32)p.pairs[at + 1], p.group - 1);
            float s, c;
            sincosf(p.theta[at / 2], &s, &c);
            for (u32 r = 0; r < have; ++r) {
                float* v = turned + r * p.group;
                const float a = v[i], b = v[j];
                v[i] = a * c + b * s;
                v[j] = b * c - a * s;
            }
        }
        __syncthreads();
    }
    for (u32 i = threadIdx.x; i < p.group; i += blockDim.x) {
        for (u32 r = 0; r < have; ++r) p.y[(u64)(r0 + r) * p.y_stride + first + i] = turned[r * p.group + i];
    }
}
