// ops: [rms_norm+rms_norm+]rope+rope+kv_append. q' = rope(norm(q)); cache[…] =
// rope(norm(k)), v; norms over heads, the first 2·half elements of a head turned
// in the half-split pairing.
// q f32 [T, heads, D], k, v f32 [T, kv_heads, D], norm weights f32 [D], table f32
// [T, 2·half], rows strided; cache in pages, f32, f16, bf16 or int8_kv. D ≤ 512.
// Launch: one warp for each head of q, k and v (x) of a row (y). Tolerance 1e-5.
#pragma once
#include "cache.cuh"
#include "reduce.cuh"

struct Args {
    const float* q;
    const float* k;
    const float* v;
    const float* table;
    const float* q_norm;
    const float* k_norm;
    float* y;
    void* cache;
    const u32* positions;
    const u32* row_span;
    const u32* tables;
    const u32* count;
    Pages c;
    u32 heads, kv_heads, dim, half_dim, q_stride, k_stride, v_stride, table_stride, y_stride;
    float q_eps, q_offset, k_eps, k_offset;
};

enum { MOST = 16 };

template <class S>
DEVICE void run(const Args& p) {
    start_next();
    u32 t = blockIdx.y;
    u32 lane = threadIdx.x & 31;
    u32 h = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    // No kernel writes the step buffer; rows behind the last have words too.
    const u32 rows = real_rows(p.count), position = p.positions[t], span = p.row_span[t];
    bool is_q = h < p.heads;
    bool is_v = h >= p.heads + p.kv_heads;
    if (threadIdx.x * 8 < p.dim) {
        if (p.q_norm) prefetch(p.q_norm + threadIdx.x * 8);
        if (p.k_norm) prefetch(p.k_norm + threadIdx.x * 8);
    }
    wait_for_previous();
    if (h >= p.heads + 2 * p.kv_heads) return;
    u32 own = is_q ? h : is_v ? h - p.heads - p.kv_heads : h - p.heads;
    const float* x = is_q ? p.q + (u64)t * p.q_stride : is_v ? p.v + (u64)t * p.v_stride : p.k + (u64)t * p.k_stride;
    x += own * p.dim;
    float e[MOST];
    float sum = 0.0f;
#pragma unroll
    for (u32 j = 0; j < MOST; ++j) {
        u32 d = lane + 32 * j;
        e[j] = d < p.dim ? x[d] : 0.0f;
        sum += e[j] * e[j];
    }
    if (t >= rows) return;
    u64 at = 0;
    if (!is_q) at = token_at(p.c, p.tables + span * p.c.blocks, position);
    const float* norm = is_q ? p.q_norm : p.k_norm;
    float scale = 1.0f;
    float offset = is_q ? p.q_offset : p.k_offset;
    bool normed = !is_v && norm;
    if (normed) scale = 1.0f / sqrtf(warp_sum(sum) / (float)p.dim + (is_q ? p.q_eps : p.k_eps));
    typename S::word* to = 0;
    if (!is_q) {
        if (at == ~0ull) return;
        to = (typename S::word*)p.cache + at + own * p.c.head_stride + (is_v ? p.c.kv_stride : 0);
    }
    const float* table = p.table + (u64)t * p.table_stride;
#pragma unroll
    for (u32 j = 0; j < MOST; ++j) {
        u32 d = lane + 32 * j;
        if (d >= p.dim) continue;
        float v = normed ? e[j] * scale * (norm[d] + offset) : e[j];
        if (!is_v && d < 2 * p.half_dim) {
            bool low = d < p.half_dim;
            u32 turn = low ? d : d - p.half_dim;
            u32 o = low ? d + p.half_dim : d - p.half_dim;
            float other = normed ? x[o] * scale * (norm[o] + offset) : x[o];
            float c = table[turn], s = table[p.half_dim + turn];
            v = low ? v * c - other * s : v * c + other * s;
        }
        if (is_q) {
            p.y[(u64)t * p.y_stride + own * p.dim + d] = v;
        } else if constexpr (Scaled<S>::ARE) {
            e[j] = v;
        } else {
            to[d] = S::put(v);
        }
    }
    if constexpr (Scaled<S>::ARE) {
        if (is_q) return;
        float most = 0.0f;
#pragma unroll
        for (u32 j = 0; j < MOST; ++j) most = fmaxf(most, fabsf(e[j]));
        const u16 stored = S::scale_of(warp_max(most));
        const float by = from_f16(stored);
#pragma unroll
        for (u32 j = 0; j < MOST; ++j) {
            u32 d = lane + 32 * j;
            if (d < p.dim) to[d] = (u8)S::code_of(e[j], by);
        }
        if (lane == 0) *S::scale_at(p.cache, p.c, p.tables + span * p.c.blocks, position, own, is_v) = stored;
    }
}
