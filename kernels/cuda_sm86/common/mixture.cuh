// One row through a mixture with a shared expert, all in one scheme of blocks.
// `mixture_gated_*`, ops expert_linear+expert_linear+silu_mul+linear+linear+silu_mul:
// gate and up of the experts that the row chose, and of the shared one. x f32 [1, K], y
// f32 [1, parts, N], of the shared one f32 [1, M]. Launch: x over tiles of 16 columns, y
// over parts, the shared one last; half of a block's warps take gates, the others ups.
// `mixture_sum_*`, ops expert_linear+expert_sum+linear+sigmoid_mul+add+add: what their
// products go through, down to the row's sum. y[n] = x[n] + (Σⱼ weights[j]·(wₑ·h[j])[n] +
// σ(gate)·(w·shared)[n]), j ascending. Launch: a block for each 16 columns, a warp for
// each part. With an rms_norm behind them the last block that is done makes it.
// Weights of the shared expert are under way before the kernel ahead has ended. Products
// as in `mma_one.cuh`. Tolerance 1e-4.
#pragma once
#include "mma_gemv.cuh"

struct Gates {
    const float* x;
    const u8* w[2];
    const u8* shared[2];
    const u32* chosen;
    float* y;
    float* y_shared;
    // Of gate, up and the shared ones, or null.
    const float* bias[4];
    const u32* count;
    u32 k, chunks, aligned, n, n_shared, stack, parts;
};

template <class Q>
DEVICE void mixture_gated(const Gates& p) {
    __shared__ float parts[MOST_WARPS][16];
    const u32 warp = threadIdx.x >> 5, warps = blockDim.x >> 5, lane = threadIdx.x & 31;
    const u32 sharing = warps / 2, first = warp % sharing, which = warp / sharing, part = blockIdx.y;
    const bool shared = part == p.parts;
    u32 tile = blockIdx.x, begin = 0, end = p.n_shared;
    const u8* w = p.shared[which] + (u64)min(tile, (p.n_shared + 15) / 16 - 1) * p.chunks * Q::CHUNK;
    Chunk<Q> own;
    if (shared) load_chunk(own, w + (u64)first * Q::CHUNK);
    start_next();
    const u32 rows = real_rows(p.count);
    wait_for_previous();
    if (!rows) return;
    if (!shared) {
        const u32 e = p.chosen[part];
        if (e >= p.stack) return;
        begin = e * p.n;
        end = begin + p.n;
        tile += begin / 16;
    }
    if (tile * 16 >= end) return;
    if (!shared) {
        w = p.w[which] + (u64)tile * p.chunks * Q::CHUNK;
        load_chunk(own, w + (u64)first * Q::CHUNK);
    }
    const Row row = shared_row(p.chunks);
    lay_row<Q::MINS>(row, p.x, p.k, p.chunks, p.aligned != 0);
    float acc[2];
    walk<Q>(acc, own, w, row, first, sharing, p.chunks);
    if ((lane & 3) == 0) {
        parts[warp][lane >> 2] = acc[0];
        parts[warp][(lane >> 2) + 8] = acc[1];
    }
    __syncthreads();
    const u32 n = tile * 16 + threadIdx.x;
    if (threadIdx.x >= 16 || n < begin || n >= end) return;
    float gate = 0.0f, up = 0.0f;
    for (u32 i = 0; i < sharing; ++i) {
        gate += parts[i][threadIdx.x];
        up += parts[sharing + i][threadIdx.x];
    }
    const float* gate_bias = p.bias[shared ? 2 : 0];
    const float* up_bias = p.bias[shared ? 3 : 1];
    if (gate_bias) gate += gate_bias[n];
    if (up_bias) up += up_bias[n];
    (shared ? p.y_shared : p.y + (u64)part * p.n)[n - begin] = silu(gate) * up;
}

struct Sum {
    const float* h;
    const u8* w;
    const u32* chosen;
    const float* weights;
    const float* h_shared;
    const u8* shared;
    const float* gate;
    const float* x;
    float* y;
    // Weights of the norm, or null, and what it makes.
    const float* norm;
    float* normed;
    const float* bias;
    const float* shared_bias;
    const u32* count;
    u32 k, k_shared, chunks, chunks_shared, aligned, n, stack, parts, one_gate;
    float eps, offset;
};

enum { MOST_PARTS = 16 };

template <class Q>
DEVICE void mixture_sum(const Sum& p) {
    extern __shared__ uint4 shared_pieces[];
    __shared__ float parts[MOST_PARTS][16], factors[MOST_PARTS];
    const u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31, tile = blockIdx.x;
    const bool shared = warp == p.parts;
    const u32 k = shared ? p.k_shared : p.k, chunks = shared ? p.chunks_shared : p.chunks;
    const u8* w = p.shared + (u64)tile * p.chunks_shared * Q::CHUNK;
    Chunk<Q> own;
    if (shared) load_chunk(own, w);
    if (p.norm && threadIdx.x == 0) prefetch(p.norm + tile * 16);
    start_next();
    const u32 rows = real_rows(p.count);
    wait_for_previous();
    if (!rows) return;
    const u32 col = tile * 16 + threadIdx.x;
    const float before = threadIdx.x < 16 && col < p.n ? p.x[col] : 0.0f;
    const float gate = threadIdx.x < 16 && col < p.n ? p.gate[p.one_gate ? 0 : col] : 0.0f;
    u32 e = 0;
    if (!shared) {
        e = p.chosen[warp];
        w = p.w + ((u64)e * (p.n / 16) + tile) * p.chunks * Q::CHUNK;
        if (e < p.stack) load_chunk(own, w);
        if (lane == 0) factors[warp] = p.weights[warp];
    }
    // A warp's own h.
    Row row;
    row.x = (u16*)((u8*)shared_pieces + (u64)warp * p.chunks * 544);
    row.sums = (float*)(row.x + chunks * 256);
    const float* h = shared ? p.h_shared : p.h + (u64)warp * p.k;
    for (u32 i = lane * 8; i < chunks * 256; i += 256) {
        float v[8] = {};
        if (i < k) load8(v, h + i, p.aligned != 0);
        lay8<Q::MINS>(row, i, v);
    }
    __syncwarp();
    float acc[2] = {};
    if (e < p.stack) walk<Q>(acc, own, w, row, 0, 1, chunks);
    if ((lane & 3) == 0) {
        parts[warp][lane >> 2] = acc[0];
        parts[warp][(lane >> 2) + 8] = acc[1];
    }
    __syncthreads();
    if (threadIdx.x < 16 && col < p.n) {
        float sum = 0.0f;
        for (u32 j = 0; j < p.parts; ++j) {
            float y = parts[j][threadIdx.x];
            if (p.bias) y += p.bias[min(p.chosen[j], p.stack - 1) * p.n + col];
            sum = fmaf(factors[j], y, sum);
        }
        sum += sigmoid(gate) * (parts[p.parts][threadIdx.x] + (p.shared_bias ? p.shared_bias[col] : 0.0f));
        p.y[col] = before + sum;
    }
    if (p.norm) norm_last(p.y, p.norm, p.normed, p.n, p.eps, p.offset);
}

#undef ENTRIES
#define ENTRIES(Q)                                                                                                    \
    KERNEL __launch_bounds__(256) mixture_gated_##Q(const __grid_constant__ Gates p) { mixture_gated<Q##_t>(p); }     \
    KERNEL __launch_bounds__(32 * MOST_PARTS) mixture_sum_##Q(const __grid_constant__ Sum p) { mixture_sum<Q##_t>(p); }
