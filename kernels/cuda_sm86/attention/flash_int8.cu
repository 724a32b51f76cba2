// op: attention, many rows, heads of 64 or 128, int8_kv caches; as `flash.cu`, with one
// tile of f16 in shared memory and the next one's codes on their way. Tolerance 1e-4.
#include "flash_int8.cuh"

enum { WARPS = 8, ROWS = 16 * WARPS, TILE = 64, THREADS = WARPS * 32 };

template <int D>
DEVICE void flash(const Args& p) {
    // Tiles of keys and values in f16, then their codes, then their scales.
    const u32 BYTES = TILE * D * 2;
    extern __shared__ __align__(16) u8 shared_bytes[];
    start_next();
    wait_for_previous();
    const u32 rows = real_rows(p.count), r0 = (gridDim.y - 1 - blockIdx.y) * ROWS;
    if (r0 >= rows) return;
    const u32 r1 = min(rows, r0 + ROWS), head = blockIdx.x, kv_head = head / p.group;
    const u32 lane = threadIdx.x & 31, own = r0 + (threadIdx.x >> 5) * 16;
    const u32 k = shared_address(shared_bytes), v = k + BYTES;
    u8* codes = shared_bytes + 2 * BYTES;
    float* scale = (float*)(codes + BYTES);
    const u8* keys = (const u8*)p.cache + (u64)kv_head * p.c.head_stride;

    u32 high[D / 16][4], low[D / 16][4];
    float factor[2], top[2] = {-1e30f, -1e30f}, sum[2] = {};
    float o[D / 8][4] = {};
    Scales scales = Scales::at(scale, TILE);
    load_queries<D>(high, low, factor, p, own, head);

    for (u32 s = r0; s < r1;) {
        const u32 span = p.row_span[s], e = min(r1, p.span_start[span + 1]);
        const u32* table = p.tables + span * p.c.blocks;
        const View view = view_of(p, s, e, own);
        const u32 last = view.last, begin = view.first / TILE * TILE;

        u16 own_scale = 0;
        auto fetch = [&](u32 at) {
            if (at <= last) {
                const u32 to = shared_address(codes);
                fetch_codes<D, TILE, THREADS>(p, view, table, keys, at, 0, to);
                fetch_codes<D, TILE, THREADS>(p, view, table, keys, at, p.c.kv_stride, to + TILE * D);
                if (threadIdx.x < 2 * TILE) own_scale = fetch_scale<TILE>(p, view, table, kv_head, at);
            }
            copy_commit();
        };
        fetch(begin);
        for (u32 at = begin; at <= last; at += TILE) {
            copy_wait<0>();
            in_order();
            expand<D, TILE, THREADS>(shared_bytes, codes);
            expand<D, TILE, THREADS>(shared_bytes + BYTES, codes + TILE * D);
            if (threadIdx.x < 2 * TILE) scale[threadIdx.x] = from_f16(own_scale);
            in_order();
            fetch(at + TILE);
            __syncthreads();
            if ((int)at <= view.most && (int)at + TILE > view.least) {
                float score[TILE / 8][4] = {};
                score_tile<D, TILE>(score, high, low, k, lane);
                u32 weight[TILE / 8][2], rest[TILE / 8][2];
                float keep[2];
                soften<TILE>(score, weight, rest, keep, top, sum, factor, view, at, scales);
                add_values<D, TILE>(o, weight, rest, keep, v);
            }
            __syncthreads();
        }
        copy_wait<0>();
        s = e;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) sum[i] /= scales.over[i];
    store_rows<D>(p, o, sum, own, r1, head);
}

KERNEL __launch_bounds__(256) flash_64(const __grid_constant__ Args p) { flash<64>(p); }
KERNEL __launch_bounds__(256) flash_128(const __grid_constant__ Args p) { flash<128>(p); }
