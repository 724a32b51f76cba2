// op: attention, many rows, heads of 64 or 128, f16 caches. o = softmax(scale·q·kᵀ)·v
// as in `paged`, without soft cap and sinks, on the tensor cores.
// q, o f32 [T, heads, D]; cache in pages of a power of two of tokens, f16.
// Launch: 8 warps for each head (x) of 128 rows (y), the last rows first: they see
// most. A warp keeps 16 rows: q as two f16, brought to between 1 and 2 by a power of
// two a row, in registers; the softmax carried online in f32. Keys and values come in
// tiles of 64 tokens, two in shared memory, 16-byte pieces permuted so that ldmatrix
// meets no bank conflict. Rows of several spans are done span by span.
// Weights of the softmax are two f16 as well. Tolerance 1e-4. Tiling after Dao 2023 (FlashAttention-2).
#include "flash.cuh"

enum { WARPS = 8, ROWS = 16 * WARPS, TILE = 64 };

template <int D>
DEVICE void flash(const Args& p) {
    extern __shared__ __align__(16) u8 shared_bytes[];
    const u32 BYTES = TILE * D * 2;
    start_next();
    wait_for_previous();
    const u32 rows = real_rows(p.count), r0 = (gridDim.y - 1 - blockIdx.y) * ROWS;
    if (r0 >= rows) return;
    const u32 r1 = min(rows, r0 + ROWS), head = blockIdx.x;
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const u32 own = r0 + warp * 16;
    const u32 base = shared_address(shared_bytes);
    const u16* keys = (const u16*)p.cache + (u64)(head / p.group) * p.c.head_stride;

    u32 high[D / 16][4], low[D / 16][4];
    float factor[2], top[2] = {-1e30f, -1e30f}, sum[2] = {};
    float o[D / 8][4] = {};
    load_queries<D>(high, low, factor, p, own, head);

    for (u32 s = r0; s < r1;) {
        const u32 span = p.row_span[s], e = min(r1, p.span_start[span + 1]);
        const u32* table = p.tables + span * p.c.blocks;
        const View view = view_of(p, s, e, own);
        const u32 last = view.last, begin = view.first / TILE * TILE;

        auto fetch = [&](u32 at, u32 stage) {
            if (at <= last) {
                const u32 k = base + stage * 2 * BYTES;
#pragma unroll
                for (u32 i = 0; i < TILE * D / 8 / (WARPS * 32); ++i) {
                    const u32 piece = threadIdx.x + i * WARPS * 32, token = piece / (D / 8), c = piece % (D / 8);
                    const u16* key;
                    const bool there = key_of(p, view, table, keys, at + token, c, key);
                    copy_async(k + piece_of<D>(token, c), there ? key : keys, there);
                    copy_async(k + BYTES + piece_of<D>(token, c), there ? key + p.c.kv_stride : keys, there);
                }
            }
            copy_commit();
        };
        fetch(begin, 0);
        u32 stage = 0;
        for (u32 at = begin; at <= last; at += TILE, stage ^= 1) {
            fetch(at + TILE, stage ^ 1);
            copy_wait<1>();
            __syncthreads();
            if ((int)at <= view.most && (int)at + TILE > view.least) {
                const u32 k = base + stage * 2 * BYTES, v = k + BYTES;
                float score[TILE / 8][4] = {};
                score_tile<D, TILE>(score, high, low, k, lane);
                u32 weight[TILE / 8][2], rest[TILE / 8][2];
                float keep[2];
                Unscaled none;
                soften<TILE>(score, weight, rest, keep, top, sum, factor, view, at, none);
                add_values<D, TILE>(o, weight, rest, keep, v);
            }
            __syncthreads();
        }
        copy_wait<0>();
        s = e;
    }
    store_rows<D>(p, o, sum, own, r1, head);
}

KERNEL __launch_bounds__(256) flash_64(const __grid_constant__ Args p) { flash<64>(p); }
KERNEL __launch_bounds__(256) flash_128(const __grid_constant__ Args p) { flash<128>(p); }
