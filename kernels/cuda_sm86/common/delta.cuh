// The gated delta rule row by row; `recurrent.cu` says how, and what a row is made of.
#pragma once
#include "reduce.cuh"

struct Delta {
    const float* q;
    const float* k;
    const float* v;
    const float* a;
    const float* b;
    const float* decay;
    const float* dt_bias;
    float* o;
    float* state;
    const u32* row_span;
    const u32* span_start;
    const u32* state_in;
    const u32* state_out;
    const u32* spans;
    u32 key_heads, heads, dk, dv, log_decay, tiled, slots, slot_stride;
    u32 q_stride, k_stride, v_stride, a_stride, b_stride, o_stride;
};

enum { WARPS = 8 };

// What a row is made of: values of q and k in column d, of v in column c, each asked for
// once; a and b of head h, whole, or where SUMS is 4 a thread's part of them. `ahead`
// comes before the kernel ahead has ended, `begin` right behind that, `end` when the
// first warp has stored o of its columns.
struct Stored {
    enum { SUMS = 2 };
    const Delta& p;
    __device__ __forceinline__ void ahead(u32, u32, u32) const {}
    __device__ __forceinline__ void begin(u32) const {}
    __device__ __forceinline__ void rates(u32 t, u32 h, float* ab) const {
        ab[0] = p.a[(u64)t * p.a_stride + h];
        ab[1] = p.b[(u64)t * p.b_stride + h];
    }
    __device__ __forceinline__ void end(u32, u32) const {}
    __device__ __forceinline__ float query(u32 t, u32, u32 d) const { return p.q[(u64)t * p.q_stride + d]; }
    __device__ __forceinline__ float key(u32 t, u32, u32 d) const { return p.k[(u64)t * p.k_stride + d]; }
    __device__ __forceinline__ float value(u32 t, u32, u32 c) const { return p.v[(u64)t * p.v_stride + c]; }
};

// DK: longest key, 128 or 256.
template <int DK, class Source>
DEVICE void recurrent(const Delta& p, Source& source) {
    const u32 OWN = DK / WARPS;
    __shared__ float query[DK], key[DK], value[32];
    __shared__ float parts[WARPS][33];
    const u32 span = blockIdx.z, h = blockIdx.y;
    start_next();
    if (span >= *p.spans) return;
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const u32 col = blockIdx.x * 32 + lane;
    const bool real = col < p.dv;
    const u32 from = (p.tiled ? h % p.key_heads : h / (p.heads / p.key_heads)) * p.dk;
    const float rate = p.log_decay ? -expf(p.decay[h]) : p.decay[h], dt_bias = p.dt_bias[h];
    source.ahead(h, from + min(threadIdx.x, p.dk - 1), h * p.dv + min(col, p.dv - 1));
    // Nothing in this step has written the state.
    const u32 slot_in = p.state_in[span];
    const u64 own = (u64)h * p.dk * p.dv + col;
    float s[OWN];
#pragma unroll
    for (u32 i = 0; i < OWN; ++i) {
        u32 d = warp + i * WARPS;
        bool there = real && d < p.dk && slot_in < p.slots;
        s[i] = there ? p.state[(u64)slot_in * p.slot_stride + own + (u64)d * p.dv] : 0.0f;
    }
    const u32 first = p.span_start[span], end = p.span_start[span + 1];
    wait_for_previous();
    source.begin(h);
    for (u32 t = first; t < end; ++t) {
        const u32 d0 = threadIdx.x;
        float q = d0 < p.dk ? source.query(t, t - first, from + d0) : 0.0f;
        float k = d0 < p.dk ? source.key(t, t - first, from + d0) : 0.0f;
        if (warp == WARPS - 1) value[lane] = real ? source.value(t, t - first, h * p.dv + col) : 0.0f;
        float sums[4] = {q * q, k * k};
        source.rates(t, h, sums + 2);
        block_sums<Source::SUMS>(sums);
        const float keep = expf(rate * softplus(sums[2] + dt_bias)), beta = sigmoid(sums[3]);
        if (d0 < p.dk) {
            query[d0] = q * (1.0f / sqrtf(sums[0] + 1e-6f) / sqrtf((float)p.dk));
            key[d0] = k * (1.0f / sqrtf(sums[1] + 1e-6f));
        }
        __syncthreads();
        float sum = 0.0f;
#pragma unroll
        for (u32 i = 0; i < OWN; ++i) {
            u32 d = warp + i * WARPS;
            s[i] *= keep;
            if (d < p.dk) sum = fmaf(key[d], s[i], sum);
        }
        parts[warp][lane] = sum;
        __syncthreads();
        float delta = 0.0f;
#pragma unroll
        for (u32 w = 0; w < WARPS; ++w) delta += parts[w][lane];
        __syncthreads();
        delta = real ? (value[lane] - delta) * beta : 0.0f;
        sum = 0.0f;
#pragma unroll
        for (u32 i = 0; i < OWN; ++i) {
            u32 d = warp + i * WARPS;
            if (d < p.dk) {
                s[i] = fmaf(key[d], delta, s[i]);
                sum = fmaf(query[d], s[i], sum);
            }
        }
        parts[warp][lane] = sum;
        __syncthreads();
        if (warp == 0 && real) {
            float o = 0.0f;
#pragma unroll
            for (u32 w = 0; w < WARPS; ++w) o += parts[w][lane];
            p.o[(u64)t * p.o_stride + h * p.dv + col] = o;
        }
        if (warp == 0) source.end(t, h);
        const u32 slot = p.state_out[t];
        if (slot < p.slots && real) {
#pragma unroll
            for (u32 i = 0; i < OWN; ++i) {
                u32 d = warp + i * WARPS;
                if (d < p.dk) p.state[(u64)slot * p.slot_stride + own + (u64)d * p.dv] = s[i];
            }
        }
        __syncthreads();
    }
}
