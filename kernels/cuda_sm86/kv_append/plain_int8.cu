// op: kv_append. Stores each row's keys and values at its position in int8_kv.
// k, v f32 [T, kv_heads, D], rows strided; cache in pages.
// Launch: one warp for each head of k and v (x) of a row (y). Exact: the same divisions
// as the oracle's. A row without a page writes nothing: it must not overwrite another
// sequence.
#include "../common/int8.cuh"
#include "../common/reduce.cuh"

struct Args {
    const float* k;
    const float* v;
    u8* cache;
    const u32* positions;
    const u32* row_span;
    const u32* tables;
    const u32* count;
    Pages c;
    u32 len, dim, k_stride, v_stride;
};

KERNEL kv_append_int8_kv(const Args p) {
    start_next();
    wait_for_previous();
    const u32 heads = p.len / p.dim, t = blockIdx.y, lane = threadIdx.x & 31;
    const u32 h = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    if (h >= 2 * heads || t >= real_rows(p.count)) return;
    const bool is_v = h >= heads;
    const u32 own = is_v ? h - heads : h;
    const u32* table = p.tables + p.row_span[t] * p.c.blocks;
    const u32 position = p.positions[t];
    const u64 at = token_at(p.c, table, position);
    if (at == ~0ull) return;
    const float* x = (is_v ? p.v + (u64)t * p.v_stride : p.k + (u64)t * p.k_stride) + own * p.dim;
    float most = 0.0f;
    for (u32 d = lane; d < p.dim; d += 32) most = fmaxf(most, fabsf(x[d]));
    const u16 stored = int8_kv_t::scale_of(warp_max(most));
    const float by = from_f16(stored);
    u8* to = p.cache + at + (u64)own * p.c.head_stride + (is_v ? p.c.kv_stride : 0);
    for (u32 d = lane; d < p.dim; d += 32) to[d] = (u8)int8_kv_t::code_of(x[d], by);
    if (lane == 0) *int8_kv_t::scale_at(p.cache, p.c, table, position, own, is_v) = stored;
}
