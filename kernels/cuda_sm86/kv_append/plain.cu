// op: kv_append. Stores each row's keys and values at its position.
// k, v f32 [T, kv_heads, D], rows strided; cache in pages, f32, f16 or bf16,
// rounded to nearest even.
// Launch: x over the elements of a row, y over rows. Exact. A row without a page
// writes nothing: it must not overwrite another sequence.
#include "../common/cache.cuh"

struct Args {
    const float* k;
    const float* v;
    void* cache;
    const u32* positions;
    const u32* row_span;
    const u32* tables;
    const u32* count;
    Pages c;
    u32 len, dim, k_stride, v_stride;
};

template <class S>
DEVICE void run(const Args& p) {
    start_next();
    wait_for_previous();
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    u32 t = blockIdx.y;
    if (i >= p.len || t >= real_rows(p.count)) return;
    u64 at = token_at(p.c, p.tables + p.row_span[t] * p.c.blocks, p.positions[t]);
    if (at == ~0ull) return;
    typename S::word* to = (typename S::word*)p.cache + at + (i / p.dim) * p.c.head_stride + i % p.dim;
    to[0] = S::put(p.k[(u64)t * p.k_stride + i]);
    to[p.c.kv_stride] = S::put(p.v[(u64)t * p.v_stride + i]);
}

KERNEL kv_append_f32(const Args p) { run<f32_t>(p); }
KERNEL kv_append_f16(const Args p) { run<f16_t>(p); }
KERNEL kv_append_bf16(const Args p) { run<bf16_t>(p); }
