// op: attention, any shape. o = softmax(scale·q·kᵀ)·v over the positions that a
// row sees: (p − window, p], or [0, p] without a window. A soft cap makes scores
// cap·tanh(s/cap); a sink is one more score of its head whose value is zero.
// q, o f32 [T, heads, D ≤ 512], rows strided; cache in pages, f32, f16, bf16 or int8_kv;
// head h reads kv head h / group; sinks f32 [heads].
// Launch: one block of 128 threads for each (head, row). It walks the visible
// positions 128 at a time: a thread scores one position, then the softmax is
// carried online and threads own output elements. Tolerance 5e-5.
#pragma once
#include "../common/cache.cuh"
#include "../common/reduce.cuh"

struct Args {
    const float* q;
    const float* sinks;
    float* o;
    const void* cache;
    const u32* positions;
    const u32* row_span;
    const u32* tables;
    const u32* count;
    Pages c;
    u32 dim, group, q_stride, o_stride, window;
    float scale, cap;
};

enum { THREADS = 128, OWN = 4 };

template <class S>
DEVICE void run(const Args& p) {
    start_next();
    wait_for_previous();
    __shared__ float query[512];
    __shared__ float weight[THREADS];
    __shared__ u64 value_at[THREADS];
    u32 head = blockIdx.x, t = blockIdx.y, lane = threadIdx.x;
    if (t >= real_rows(p.count)) return;
    const typename S::word* cache = (const typename S::word*)p.cache + (u64)(head / p.group) * p.c.head_stride;
    const u32* table = p.tables + p.row_span[t] * p.c.blocks;
    u32 position = p.positions[t];
    u32 first = p.window && position + 1 > p.window ? position + 1 - p.window : 0;
    for (u32 d = lane; d < p.dim; d += THREADS) query[d] = p.q[(u64)t * p.q_stride + head * p.dim + d];
    float own[OWN] = {};
    float top = -3.0e38f, sum = 0.0f;
    if (p.sinks) {
        top = p.sinks[head];
        sum = 1.0f;
    }
    __syncthreads();
    for (u32 at = first; at <= position; at += THREADS) {
        u32 pos = at + lane;
        bool seen = pos <= position;
        float score = -3.0e38f, value_scale = 1.0f;
        if (seen) {
            u64 key = token_at(p.c, table, pos);
            value_at[lane] = key + p.c.kv_stride;
            float s = 0.0f;
            for (u32 d = 0; d < p.dim; ++d) s = fmaf(S::get(cache[key + d]), query[d], s);
            if constexpr (Scaled<S>::ARE) {
                s *= from_f16(*S::scale_at(p.cache, p.c, table, pos, head / p.group, false));
                value_scale = from_f16(*S::scale_at(p.cache, p.c, table, pos, head / p.group, true));
            }
            score = s * p.scale;
            if (p.cap > 0.0f) score = tanhf(score / p.cap) * p.cap;
        }
        float new_top = fmaxf(top, block_max(score));
        float e = seen ? expf(score - new_top) : 0.0f;
        float keep = expf(top - new_top);
        top = new_top;
        weight[lane] = e * value_scale;
        sum = sum * keep + block_sum(e);
        __syncthreads();
        u32 n = min((u32)THREADS, position + 1 - at);
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            u32 d = lane + i * THREADS;
            if (d < p.dim) {
                float a = own[i] * keep;
                for (u32 j = 0; j < n; ++j) a = fmaf(weight[j], S::get(cache[value_at[j] + d]), a);
                own[i] = a;
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        u32 d = lane + i * THREADS;
        if (d < p.dim) p.o[(u64)t * p.o_stride + head * p.dim + d] = own[i] / sum;
    }
}
