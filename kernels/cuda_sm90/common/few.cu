// ops: linear, two or three of them over one x, gate and up with SiLU, an add behind or
// an rms_norm ahead; up to 64 rows, block-quantised weights whose scales are whole numbers.
// yᵢ[r, n] = Σₖ f16(x[r, k])·wᵢ[n, k] (+ biasᵢ[n]) (+ add[r, n]).
// `lay_rows`, `lay_norm`: x f32 [R, K], or its norm, to f16 as the tensor cores take it:
// of each chunk of 256 columns four tiles of 64 rows by 64 columns in the order of the
// weights' fragments, and the sums of each 32 columns. A block for each row.
// `few_*`: a block has 128 columns of y, or 64 of gate and of up, and a part of K. Per
// chunk the copy engine brings all rows' x and the weights of eight panels of 16, two
// chunks ahead; each of two groups of four warps multiplies 64 columns. Weights are the
// tensor cores' first operand, from registers: numbers times scales are whole numbers,
// exact in f16; the chunk's factor meets the sums in f32, and the minima the sums of x.
// Rows of x behind the last are whatever lies there; they meet no other row. Parts of K
// are joined by the last block of them that is done, in order.
// Tolerance 1e-4; behind a norm, whose last bits turn roundings, 5e-4.
#include "../../cuda_sm86/common/reduce.cuh"
#include "laid.cuh"

enum {
    STAGES = 2,
    // Units whose parts can be counted.
    MOST_UNITS = 16384,
};

struct Lay {
    const float* x;
    u8* out;
    const u32* count;
    const float* norm;
    u32 k, x_stride, chunks, aligned;
    float eps, offset;
};

KERNEL __launch_bounds__(256) lay_rows(const Lay p) {
    start_next();
    wait_for_previous();
    const u32 r = blockIdx.y, i = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= p.chunks * 256 || r >= real_rows(p.count)) return;
    float v[8] = {};
    if (i < p.k) load8(v, p.x + (u64)r * p.x_stride + i, p.aligned != 0);
    lay(p.out + (u64)(i / 256) * X_BYTES, r, i, share_of(v));
}

KERNEL __launch_bounds__(512) lay_norm(const Lay p) {
    // Pieces of a row that a thread keeps between the passes.
    const u32 KEPT = 2;
    const u32 r = blockIdx.y, first = threadIdx.x * 8, pass = blockDim.x * 8;
    start_next();
    wait_for_previous();
    if (r >= real_rows(p.count)) return;
    const float* x = p.x + (u64)r * p.x_stride;
    float v[KEPT][8] = {}, w[KEPT][8] = {}, squares = 0.0f;
#pragma unroll
    for (u32 j = 0; j < KEPT; ++j) {
        const u32 i = first + j * pass;
        if (i < p.k) {
            load8(v[j], x + i, p.aligned != 0);
            load8(w[j], p.norm + i, p.aligned != 0);
        }
    }
#pragma unroll
    for (u32 j = 0; j < KEPT; ++j) {
#pragma unroll
        for (int e = 0; e < 8; ++e) squares = fmaf(v[j][e], v[j][e], squares);
    }
    for (u32 i = first + KEPT * pass; i < p.k; i += pass) {
        float u[8];
        load8(u, x + i, p.aligned != 0);
#pragma unroll
        for (int e = 0; e < 8; ++e) squares = fmaf(u[e], u[e], squares);
    }
    const float scale = 1.0f / sqrtf(block_sum(squares) / (float)p.k + p.eps);
    for (u32 j = 0; first + j * pass < p.chunks * 256; ++j) {
        const u32 i = first + j * pass;
        float u[8] = {}, weight[8] = {};
        if (j < KEPT) {
#pragma unroll
            for (u32 h = 0; h < KEPT; ++h) {
#pragma unroll
                for (int e = 0; e < 8; ++e) {
                    u[e] = h == j ? v[h][e] : u[e];
                    weight[e] = h == j ? w[h][e] : weight[e];
                }
            }
        } else if (i < p.k) {
            load8(u, x + i, p.aligned != 0);
            load8(weight, p.norm + i, p.aligned != 0);
        }
#pragma unroll
        for (int e = 0; e < 8; ++e) u[e] = u[e] * scale * (weight[e] + p.offset);
        lay(p.out + (u64)(i / 256) * X_BYTES, r, i, share_of(u));
    }
}

struct Few {
    const u8* x;
    const u8* w[MATRICES];
    const float* bias[MATRICES];
    float* y[MATRICES];
    const u32* count;
    const float* norm;
    const float* add;
    // [units, parts of K, 2, 32, 128].
    float* sums;
    u32 n[MATRICES], y_stride[MATRICES];
    u32 chunks, parts, add_stride;
};

__device__ u32 arrived[MOST_UNITS];

template <class Q, bool GATED>
DEVICE void few(const Few& p) {
    extern __shared__ __align__(1024) u8 shared_bytes[];
    const u32 WIDTH = GATED ? 64 : 128, W_BYTES = 8 * Q::CHUNK;
    const u32 STAGE = (X_BYTES + W_BYTES + 1023) & ~1023u;
    const u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const u32 slack = (1024 - (shared_address(shared_bytes) & 1023)) & 1023;
    u8* const stages = shared_bytes + slack;
    const u32 base = shared_address(stages), full = base + STAGES * STAGE;
    u32 unit = blockIdx.x;
    const u32 m = GATED ? 0 : matrix_of(p.n, unit, WIDTH);
    const u32 first = p.chunks * blockIdx.y / p.parts, end = p.chunks * (blockIdx.y + 1) / p.parts;

    // Panels behind the last are the last once more.
    auto fetch_weights = [&](u32 chunk, u32 stage) {
        barrier_expect(full + stage * 8, X_BYTES + W_BYTES);
#pragma unroll 1
        for (u32 i = 0; i < 8; ++i) {
            const u32 which = GATED ? i / 4 : m, n = p.n[which];
            const u32 panel = min(unit * (WIDTH / 16) + (GATED ? i % 4 : i), (n + 15) / 16 - 1);
            const u8* from = p.w[which] + ((u64)panel * p.chunks + chunk) * Q::CHUNK;
            copy_bytes(base + stage * STAGE + X_BYTES + i * Q::CHUNK, from, Q::CHUNK, full + stage * 8);
        }
    };
    auto fetch_x = [&](u32 chunk, u32 stage) {
        copy_bytes(base + stage * STAGE, p.x + (u64)chunk * X_BYTES, X_BYTES, full + stage * 8);
    };
    if (threadIdx.x == 0) {
        for (u32 s = 0; s < STAGES; ++s) barrier_init(full + s * 8, 1);
        barriers_ready();
        for (u32 s = 0; s < STAGES && first + s < end; ++s) fetch_weights(first + s, s);
    }
    start_next();
    wait_for_previous();
    __syncthreads();
    if (threadIdx.x == 0) {
        fence_for_copies();
        for (u32 s = 0; s < STAGES && first + s < end; ++s) fetch_x(first + s, s);
    }

    float acc[32];
#pragma unroll
    for (int i = 0; i < 32; ++i) acc[i] = 0.0f;
    for (u32 chunk = first; chunk < end; ++chunk) {
        const u32 stage = (chunk - first) % STAGES;
        barrier_wait(full + stage * 8, (chunk - first) / STAGES & 1);
        const u8* w = stages + stage * STAGE + X_BYTES + warp * Q::CHUNK;
        const u32 x = base + stage * STAGE;
        multiply_chunk<Q>(acc, w, x, [] {});
        __syncthreads();
        if (threadIdx.x == 0 && chunk + STAGES < end) {
            fetch_weights(chunk + STAGES, stage);
            fetch_x(chunk + STAGES, stage);
        }
    }

    const u32 own = threadIdx.x & 127, group = threadIdx.x >> 7;
    if (p.parts > 1) {
        __shared__ u32 last;
        const u64 part = 2 * 32 * 128;
        float* all = p.sums + (u64)blockIdx.x * p.parts * part + group * (32 * 128) + own;
        float* to = all + blockIdx.y * part;
#pragma unroll
        for (int i = 0; i < 32; ++i) __stcg(to + i * 128, acc[i]);
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
            last = atomicAdd(&arrived[blockIdx.x], 1u) + 1 == p.parts;
            if (last) arrived[blockIdx.x] = 0;
        }
        __syncthreads();
        if (!last) return;
        __threadfence();
#pragma unroll
        for (int i = 0; i < 32; ++i) acc[i] = 0.0f;
        for (u32 s = 0; s < p.parts; ++s) {
#pragma unroll
            for (int i = 0; i < 32; ++i) acc[i] += __ldcg(all + s * part + i * 128);
        }
    }
    if (GATED) {
        // All stages have been read.
        float* ups = (float*)stages + own;
        if (group == 1) {
#pragma unroll
            for (int i = 0; i < 32; ++i) ups[i * 128] = acc[i];
        }
        __syncthreads();
        if (group == 1) return;
    }
    const u32 rows = real_rows(p.count);
#pragma unroll
    for (u32 h = 0; h < 2; ++h) {
        const u32 col = unit * WIDTH + (GATED ? 0 : group * 64) + (warp & 3) * 16 + g + 8 * h;
        if (col >= p.n[m]) continue;
        const float bias = p.bias[m] ? p.bias[m][col] : 0.0f;
        const float up_bias = GATED && p.bias[1] ? p.bias[1][col] : 0.0f;
#pragma unroll
        for (u32 i = 0; i < 16; ++i) {
            const u32 row = i / 2 * 8 + t * 2 + i % 2, at = i / 2 * 4 + 2 * h + i % 2;
            if (row >= rows) continue;
            float v = acc[at] + bias;
            if (GATED) v = silu(v) * (((const float*)stages)[at * 128 + own] + up_bias);
            if (p.add) v += p.add[(u64)row * p.add_stride + col];
            p.y[m][(u64)row * p.y_stride[m] + col] = v;
        }
    }
}

#define ENTRIES(Q)                                                                                            \
    KERNEL __launch_bounds__(256, 2) few_##Q(const __grid_constant__ Few p) { few<Q##_t, false>(p); }         \
    KERNEL __launch_bounds__(256, 2) few_gated_##Q(const __grid_constant__ Few p) { few<Q##_t, true>(p); }
ENTRIES(q4_k)
ENTRIES(q5_k)
