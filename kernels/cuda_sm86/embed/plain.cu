// op: embed. y[t] = table[token_ids[t]].
// table [V, H] f32, f16 or bf16 row-major, y f32 [T, H], rows strided.
// Launch: x over the elements of a row, y over rows. Exact. A token outside the
// vocabulary reads its last row.
#include "../common/base.cuh"

struct Args {
    const void* table;
    float* y;
    const u32* count;
    const u32* ids;
    u32 len, vocabulary, y_stride;
};

template <class S>
DEVICE void run(const Args& p) {
    start_next();
    wait_for_previous();
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    u32 t = blockIdx.y;
    if (i >= p.len || t >= real_rows(p.count)) return;
    const typename S::word* table = (const typename S::word*)p.table;
    u64 row = min(p.ids[t], p.vocabulary - 1);
    p.y[(u64)t * p.y_stride + i] = S::get(table[row * p.len + i]);
}

KERNEL embed_f32(const Args p) { run<f32_t>(p); }
KERNEL embed_f16(const Args p) { run<f16_t>(p); }
KERNEL embed_bf16(const Args p) { run<bf16_t>(p); }
