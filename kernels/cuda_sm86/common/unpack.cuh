// Block-quantised weights in layout mma16 to plain numbers.
// `embed_*`: y[t] = table[token_ids[t]], f32 [T, H]; exact. A token outside the
// vocabulary reads its last row.
// `unpack_*`: rows [first, first + rows) to f16 [rows, K] row-major, for a product
// on the tensor cores; rounded to nearest.
// Launch: x over K, y over rows.
#pragma once
#include "quant.cuh"

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
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    u32 t = blockIdx.y;
    if (i >= p.len || t >= real_rows(p.count)) return;
    p.y[(u64)t * p.y_stride + i] = at<Q>(p.table, p.chunks, min(p.ids[t], p.vocabulary - 1), i);
}

struct Unpack {
    const u8* w;
    u16* out;
    u32 k, chunks, first, rows;
};

// Two elements for each thread.
template <class Q>
DEVICE void unpack(const Unpack& p) {
    u32 i = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
    u32 r = blockIdx.y;
    if (i >= p.k || r >= p.rows) return;
    float a = at<Q>(p.w, p.chunks, p.first + r, i), b = at<Q>(p.w, p.chunks, p.first + r, i + 1);
    *(u32*)(p.out + (u64)r * p.k + i) = to_f16x2(a, b);
}

#define ENTRIES(Q)                                             \
    KERNEL embed_##Q(const Embed p) { embed<Q##_t>(p); }       \
    KERNEL unpack_##Q(const Unpack p) { unpack<Q##_t>(p); }

ENTRIES(q4_0)
ENTRIES(q8_0)
ENTRIES(q4_k)
ENTRIES(q5_k)
ENTRIES(q6_k)
