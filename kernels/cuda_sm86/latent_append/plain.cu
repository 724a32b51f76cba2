// op: latent_append. Stores each row's latent vector, c followed by k, at its
// position.
// c f32 [T, L], k f32 [T, 1, R], rows strided; cache in pages, f32, f16 or bf16,
// rounded to nearest even.
// Launch: x over L + R, y over rows. Exact.
#include "../common/cache.cuh"

struct Args {
    const float* c;
    const float* k;
    void* cache;
    const u32* positions;
    const u32* row_span;
    const u32* tables;
    const u32* count;
    Pages pages;
    u32 latent, len, c_stride, k_stride;
};

template <class S>
DEVICE void run(const Args& p) {
    start_next();
    wait_for_previous();
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    u32 t = blockIdx.y;
    if (i >= p.len || t >= real_rows(p.count)) return;
    u64 at = token_at(p.pages, p.tables + p.row_span[t] * p.pages.blocks, p.positions[t]);
    if (at == ~0ull) return;
    float x = i < p.latent ? p.c[(u64)t * p.c_stride + i] : p.k[(u64)t * p.k_stride + i - p.latent];
    ((typename S::word*)p.cache)[at + i] = S::put(x);
}

KERNEL latent_append_f32(const Args p) { run<f32_t>(p); }
KERNEL latent_append_f16(const Args p) { run<f16_t>(p); }
KERNEL latent_append_bf16(const Args p) { run<bf16_t>(p); }
