// op: attention, few rows, heads of 64, 128 or 256, 16-bit or int8_kv caches.
// o = softmax(scale·q·kᵀ)·v as in `paged`, the visible positions split over blocks.
// q, o f32 [T, heads, D]; cache in pages of a power of two of tokens.
// Launch: `split_kv` has a block of 4 warps for each (kv head and up to HEADS of
// its query heads, row, split). D/P lanes read one token's 16-byte pieces of P
// elements, so a warp holds 32·P/D streams of tokens, each with its own online softmax in f32;
// streams meet in shared memory and the block writes its maximum, sum and output to
// the workspace; the last block joins the splits in order. Tolerance 5e-5.
#pragma once
#include "../common/reduce.cuh"
#include "../common/split.cuh"

enum { WARPS = 4 };

template <class S, int D, int HEADS>
DEVICE void split(const Args& p) {
    const int P = S::PIECE, LANES = D / P, STREAMS = WARPS * 32 / LANES, AHEAD = 4;
    __shared__ float outs[STREAMS][HEADS][D];
    __shared__ float2 tops[STREAMS][HEADS];
    const u32 t = blockIdx.y, cut = blockIdx.z;
    start_next();
    // Asked for together; rows behind the last have words too.
    const u32 rows = real_rows(p.count), position = p.positions[t], span = p.row_span[t];
    const Seen seen = seen_by(p, position);
    wait_for_previous();
    if (t >= rows || cut >= seen.splits) return;
    const u32 kv = blockIdx.x / p.head_blocks;
    const u32 in_group = (blockIdx.x % p.head_blocks) * HEADS;
    const u32 head0 = kv * p.group + in_group;
    const u32 stream = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const u32 begin = seen.first + cut * seen.chunk;
    const u32 end = min(seen.end, begin + seen.chunk);
    typedef typename S::word word;
    const word* keys = (const word*)p.cache + (u64)kv * p.c.head_stride + lane * P;
    const u32* table = p.tables + span * p.c.blocks;
    const u32 mask = p.c.block - 1;

    float q[HEADS][P], acc[HEADS][P], top[HEADS], sum[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
        u32 head = head0 + (in_group + h < p.group ? h : 0);
        const float* from = p.q + (u64)t * p.q_stride + head * D + lane * P;
#pragma unroll
        for (int i = 0; i < P; ++i) {
            q[h][i] = from[i] * p.scale;
            acc[h][i] = 0.0f;
        }
        top[h] = -3.0e38f;
        sum[h] = 0.0f;
    }
    for (u32 at = begin; at < end; at += AHEAD * STREAMS) {
        uint4 kraw[AHEAD], vraw[AHEAD];
        float kscale[AHEAD], vscale[AHEAD];
        bool have[AHEAD];
#pragma unroll
        for (int u = 0; u < AHEAD; ++u) {
            u32 pos = at + u * STREAMS + stream;
            have[u] = pos < end;
            u32 safe = min(pos, end - 1);
            const word* key = keys + (u64)table[safe >> p.shift] * p.c.page_stride + (u64)(safe & mask) * p.c.token_stride;
            kraw[u] = *(const uint4*)key;
            vraw[u] = *(const uint4*)(key + p.c.kv_stride);
            if constexpr (Scaled<S>::ARE) {
                kscale[u] = from_f16(*S::scale_at(p.cache, p.c, table, safe, kv, false));
                vscale[u] = from_f16(*S::scale_at(p.cache, p.c, table, safe, kv, true));
            }
        }
        float score[AHEAD][HEADS];
#pragma unroll
        for (int u = 0; u < AHEAD; ++u) {
            float k[P];
            S::piece(kraw[u], k);
#pragma unroll
            for (int h = 0; h < HEADS; ++h) {
                float s = 0.0f;
#pragma unroll
                for (int i = 0; i < P; ++i) s = fmaf(k[i], q[h][i], s);
#pragma unroll
                for (int d = LANES / 2; d; d >>= 1) s += __shfl_xor_sync(0xffffffffu, s, d);
                if constexpr (Scaled<S>::ARE) s *= kscale[u];
                if (p.cap > 0.0f) s = tanhf(s / p.cap) * p.cap;
                score[u][h] = s;
            }
        }
        float v[AHEAD][P];
#pragma unroll
        for (int u = 0; u < AHEAD; ++u) S::piece(vraw[u], v[u]);
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
            float best = top[h];
#pragma unroll
            for (int u = 0; u < AHEAD; ++u) best = have[u] ? fmaxf(best, score[u][h]) : best;
            float keep = expf(top[h] - best);
            top[h] = best;
            sum[h] *= keep;
#pragma unroll
            for (int i = 0; i < P; ++i) acc[h][i] *= keep;
#pragma unroll
            for (int u = 0; u < AHEAD; ++u) {
                float e = have[u] ? expf(score[u][h] - best) : 0.0f;
                sum[h] += e;
                if constexpr (Scaled<S>::ARE) e *= vscale[u];
#pragma unroll
                for (int i = 0; i < P; ++i) acc[h][i] = fmaf(e, v[u][i], acc[h][i]);
            }
        }
    }
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
        if (lane == 0) tops[stream][h] = make_float2(top[h], sum[h]);
#pragma unroll
        for (int i = 0; i < P; ++i) outs[stream][h][lane * P + i] = acc[h][i];
    }
    __syncthreads();
    for (u32 e = threadIdx.x; e < HEADS * D; e += WARPS * 32) {
        u32 h = e / D, d = e % D;
        if (in_group + h >= p.group) continue;
        float best = -3.0e38f;
#pragma unroll
        for (int s = 0; s < STREAMS; ++s) best = fmaxf(best, tops[s][h].x);
        float total = 0.0f, out = 0.0f;
#pragma unroll
        for (int s = 0; s < STREAMS; ++s) {
            float w = expf(tops[s][h].x - best);
            total += w * tops[s][h].y;
            out = fmaf(w, outs[s][h][d], out);
        }
        u64 slot = ((u64)t * p.heads + head0 + h) * p.splits + cut;
        p.outs[slot * D + d] = out;
        if (d == 0) p.tops[slot] = make_float2(best, total);
    }
    join(p, t, t * gridDim.x + blockIdx.x, head0, min(p.group - in_group, (u32)HEADS), seen.splits);
}
