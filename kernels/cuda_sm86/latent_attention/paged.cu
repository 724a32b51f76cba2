// op: latent_attention. For each head, o = softmax(scale·(q_latent·c + q_rope·k))·c
// over the positions [0, p] of a row at p.
// q_latent, o f32 [T, heads, L ≤ 512], q_rope f32 [T, heads, R ≤ 128]; cache in pages
// of vectors c, k, f32, f16 or bf16.
// Launch: one block of 128 threads for each (head, row). It walks the positions 128
// at a time: a thread scores one, then the softmax is carried online and threads own
// output elements. Tolerance 5e-5. The maths: DeepSeek-AI 2024, section 2.1, with the
// up-projections absorbed.
#include "../common/cache.cuh"
#include "../common/reduce.cuh"

struct Args {
    const float* q_latent;
    const float* q_rope;
    float* o;
    const void* cache;
    const u32* positions;
    const u32* row_span;
    const u32* tables;
    const u32* count;
    Pages c;
    u32 latent, rope, l_stride, r_stride, o_stride;
    float scale;
};

enum { THREADS = 128, OWN = 4 };

template <class S>
DEVICE void run(const Args& p) {
    start_next();
    wait_for_previous();
    __shared__ float query[640];
    __shared__ float weight[THREADS];
    __shared__ u64 value_at[THREADS];
    const u32 head = blockIdx.x, t = blockIdx.y, lane = threadIdx.x;
    if (t >= real_rows(p.count)) return;
    const typename S::word* cache = (const typename S::word*)p.cache;
    const u32* table = p.tables + p.row_span[t] * p.c.blocks;
    const u32 position = p.positions[t], len = p.latent + p.rope;
    for (u32 d = lane; d < len; d += THREADS) {
        query[d] = d < p.latent ? p.q_latent[(u64)t * p.l_stride + head * p.latent + d]
                                : p.q_rope[(u64)t * p.r_stride + head * p.rope + d - p.latent];
    }
    float own[OWN] = {};
    float top = -3.0e38f, sum = 0.0f;
    __syncthreads();
    for (u32 at = 0; at <= position; at += THREADS) {
        const u32 pos = at + lane;
        const bool seen = pos <= position;
        float score = -3.0e38f;
        if (seen) {
            u64 key = token_at(p.c, table, pos);
            value_at[lane] = key;
            float s = 0.0f;
            for (u32 d = 0; d < len; ++d) s = fmaf(S::get(cache[key + d]), query[d], s);
            score = s * p.scale;
        }
        float new_top = fmaxf(top, block_max(score));
        float e = seen ? expf(score - new_top) : 0.0f;
        float keep = expf(top - new_top);
        top = new_top;
        weight[lane] = e;
        sum = sum * keep + block_sum(e);
        __syncthreads();
        const u32 n = min((u32)THREADS, position + 1 - at);
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            u32 d = lane + i * THREADS;
            if (d < p.latent) {
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
        if (d < p.latent) p.o[(u64)t * p.o_stride + head * p.latent + d] = own[i] / sum;
    }
}

KERNEL latent_f32(const Args p) { run<f32_t>(p); }
KERNEL latent_f16(const Args p) { run<f16_t>(p); }
KERNEL latent_bf16(const Args p) { run<bf16_t>(p); }
