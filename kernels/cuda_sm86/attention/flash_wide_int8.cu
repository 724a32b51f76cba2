// op: attention, many rows, heads of 256 (and of 64 and 128), int8_kv caches; as `flash_wide.cu`,
// with one tile of f16 in shared memory, of keys and then of values, and codes of both on
// their way. Tolerance 1e-4.
#include "flash_int8.cuh"

enum { WARPS = 4, ROWS = 16 * WARPS, TILE = 32, THREADS = WARPS * 32 };

template <int D>
DEVICE void flash_wide(const Args& p) {
    // Both planes of q, a tile in f16, codes of keys and of values, then their scales.
    const u32 PLANE = ROWS * D * 2, BYTES = TILE * D * 2;
    extern __shared__ __align__(16) u8 shared_bytes[];
    start_next();
    wait_for_previous();
    const u32 rows = real_rows(p.count), r0 = (gridDim.y - 1 - blockIdx.y) * ROWS;
    if (r0 >= rows) return;
    const u32 r1 = min(rows, r0 + ROWS), head = blockIdx.x, kv_head = head / p.group;
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, own = r0 + warp * 16;
    u8* tile = shared_bytes + 2 * PLANE;
    u8* codes = tile + BYTES;
    float* scale = (float*)(codes + BYTES);
    const u32 base = shared_address(shared_bytes), held = shared_address(tile);
    const u8* keys = (const u8*)p.cache + (u64)kv_head * p.c.head_stride;

    float factor[2], top[2] = {-1e30f, -1e30f}, sum[2] = {};
    float o[D / 8][4] = {};
    Scales scales = Scales::at(scale, TILE);
    {
        u32 high[D / 16][4], low[D / 16][4];
        load_queries<D>(high, low, factor, p, own, head);
        park_queries<D>(shared_bytes, PLANE, high, low, warp, lane >> 2, lane & 3);
    }
    // Its rows are a warp's own.
    __syncwarp();

    for (u32 s = r0; s < r1;) {
        const u32 span = p.row_span[s], e = min(r1, p.span_start[span + 1]);
        const u32* table = p.tables + span * p.c.blocks;
        const View view = view_of(p, s, e, own);
        const u32 last = view.last, begin = view.first / TILE * TILE;

        u16 own_scale = 0;
        auto fetch_keys = [&](u32 at) {
            if (at <= last) {
                fetch_codes<D, TILE, THREADS>(p, view, table, keys, at, 0, shared_address(codes));
                if (threadIdx.x < 2 * TILE) own_scale = fetch_scale<TILE>(p, view, table, kv_head, at);
            }
            copy_commit();
        };
        auto fetch_values = [&](u32 at) {
            if (at <= last) fetch_codes<D, TILE, THREADS>(p, view, table, keys, at, p.c.kv_stride, shared_address(codes) + TILE * D);
            copy_commit();
        };
        fetch_keys(begin);
        fetch_values(begin);
        for (u32 at = begin; at <= last; at += TILE) {
            const bool sees = (int)at <= view.most && (int)at + TILE > view.least;
            copy_wait<1>();
            in_order();
            expand<D, TILE, THREADS>(tile, codes);
            if (threadIdx.x < 2 * TILE) scale[threadIdx.x] = from_f16(own_scale);
            in_order();
            fetch_keys(at + TILE);
            __syncthreads();
            float score[TILE / 8][4] = {};
            if (sees) score_parked<D, TILE>(score, base, PLANE, held, warp, lane);
            __syncthreads();
            u32 weight[TILE / 8][2], rest[TILE / 8][2];
            float keep[2];
            if (sees) soften<TILE>(score, weight, rest, keep, top, sum, factor, view, at, scales);
            copy_wait<1>();
            in_order();
            expand<D, TILE, THREADS>(tile, codes + TILE * D);
            in_order();
            fetch_values(at + TILE);
            __syncthreads();
            if (sees) add_values<D, TILE>(o, weight, rest, keep, held);
            __syncthreads();
        }
        copy_wait<0>();
        s = e;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) sum[i] /= scales.over[i];
    store_rows<D>(p, o, sum, own, r1, head);
}

KERNEL __launch_bounds__(128) flash_64(const __grid_constant__ Args p) { flash_wide<64>(p); }
KERNEL __launch_bounds__(128) flash_128(const __grid_constant__ Args p) { flash_wide<128>(p); }
KERNEL __launch_bounds__(128) flash_256(const __grid_constant__ Args p) { flash_wide<256>(p); }
