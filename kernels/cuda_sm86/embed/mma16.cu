// op: embed of block-quantised tables in layout mma16. y[t] = table[token_ids[t]],
// y f32 [T, H], rows strided. Launch: x over the elements of a row, y over rows.
// Exact. A token outside the vocabulary reads its last row.
#include "../common/quant_blocks.cuh"

struct Embed {
    const u8* table;
    float* y;
    const u32* count;
    const u32* ids;
    u32 len, chunks, vocabulary, y_stride;
};

template <class Q>
DEVICE float at(const u8* w, u32 chunks, u32 row, u32 k) {
    return Q::element(w + ((u64)(row / 16) * chunks + k / 256) * Q::CHUNK, row % 16, k % 256);
}

template <class Q>
DEVICE void embed(const Embed& p) {
    start_next();
    wait_for_previous();
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    u32 t = blockIdx.y;
    if (i >= p.len || t >= real_rows(p.count)) return;
    p.y[(u64)t * p.y_stride + i] = at<Q>(p.table, p.chunks, min(p.ids[t], p.vocabulary - 1), i);
}

#define ENTRIES(Q) KERNEL embed_##Q(const Embed p) { embed<Q##_t>(p); }

ENTRIES(q4_0)
ENTRIES(q8_0)
ENTRIES(q4_k)
ENTRIES(q5_k)
ENTRIES(q6_k)
ENTRIES(q4_1)
ENTRIES(q5_0)
ENTRIES(q5_1)
ENTRIES(q2_k)
ENTRIES(q3_k)
ENTRIES(iq4_nl)
ENTRIES(iq4_xs)
ENTRIES(mxfp4)
ENTRIES(w4_paro)
