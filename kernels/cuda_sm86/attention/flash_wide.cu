// op: attention, many rows, heads of 256 (and of 128), f16 caches; as `flash.cu`, where
// registers would not do. Launch: 4 warps for each head (x) of 64 rows (y), the last rows first. q
// lies in shared memory, both of its f16 planes; keys and values come in tiles of 32
// tokens, the next keys while values are multiplied and the next values while keys are.
// Tolerance 1e-4.
#include "flash.cuh"

enum { WARPS = 4, ROWS = 16 * WARPS, TILE = 32 };

template <int D>
DEVICE void flash_wide(const Args& p) {
    const u32 PLANE = ROWS * D * 2, BYTES = TILE * D * 2;
    extern __shared__ __align__(16) u8 shared_bytes[];
    start_next();
    wait_for_previous();
    const u32 rows = real_rows(p.count), r0 = (gridDim.y - 1 - blockIdx.y) * ROWS;
    if (r0 >= rows) return;
    const u32 r1 = min(rows, r0 + ROWS), head = blockIdx.x;
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    const u32 own = r0 + warp * 16;
    const u32 base = shared_address(shared_bytes), k = base + 2 * PLANE, v = k + BYTES;
    const u16* keys = (const u16*)p.cache + (u64)(head / p.group) * p.c.head_stride;

    float factor[2], top[2] = {-1e30f, -1e30f}, sum[2] = {};
    float o[D / 8][4] = {};
    {
        u32 high[D / 16][4], low[D / 16][4];
        load_queries<D>(high, low, factor, p, own, head);
        park_queries<D>(shared_bytes, PLANE, high, low, warp, g, t);
    }
    // Its rows are a warp's own.
    __syncwarp();

    for (u32 s = r0; s < r1;) {
        const u32 span = p.row_span[s], e = min(r1, p.span_start[span + 1]);
        const u32* table = p.tables + span * p.c.blocks;
        const View view = view_of(p, s, e, own);
        const u32 last = view.last, begin = view.first / TILE * TILE;

        auto fetch = [&](u32 at, u32 to, u64 beside) {
            if (at <= last) {
#pragma unroll 4
                for (u32 i = 0; i < TILE * D / 8 / (WARPS * 32); ++i) {
                    const u32 piece = threadIdx.x + i * WARPS * 32, token = piece / (D / 8), c = piece % (D / 8);
                    const u16* key;
                    const bool there = key_of(p, view, table, keys, at + token, c, key);
                    copy_async(to + piece_of<D>(token, c), there ? key + beside : keys, there);
                }
            }
            copy_commit();
        };
        fetch(begin, k, 0);
        fetch(begin, v, p.c.kv_stride);
        for (u32 at = begin; at <= last; at += TILE) {
            const bool sees = (int)at <= view.most && (int)at + TILE > view.least;
            copy_wait<1>();
            __syncthreads();
            float score[TILE / 8][4] = {};
            if (sees) score_parked<D, TILE>(score, base, PLANE, k, warp, lane);
            __syncthreads();
            fetch(at + TILE, k, 0);
            u32 weight[TILE / 8][2], rest[TILE / 8][2];
            float keep[2];
            Unscaled none;
            if (sees) soften<TILE>(score, weight, rest, keep, top, sum, factor, view, at, none);
            copy_wait<1>();
            __syncthreads();
            if (sees) add_values<D, TILE>(o, weight, rest, keep, v);
            __syncthreads();
            fetch(at + TILE, v, p.c.kv_stride);
        }
        copy_wait<0>();
        s = e;
    }
    store_rows<D>(p, o, sum, own, r1, head);
}

KERNEL __launch_bounds__(128) flash_128(const __grid_constant__ Args p) { flash_wide<128>(p); }
KERNEL __launch_bounds__(128) flash_256(const __grid_constant__ Args p) { flash_wide<256>(p); }
