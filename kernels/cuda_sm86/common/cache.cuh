// Paged caches: element (page p, kv s, head h, token t, d) is at p·page_stride +
// s·kv_stride + h·head_stride + t·token_stride + d from the layer's first.
#pragma once
#include "base.cuh"

struct Pages {
    u32 block, blocks, pages, page_stride, kv_stride, head_stride, token_stride;
#ifdef INT8_KV
    // Bytes from a layer's first code to the first scale of its keys, and of its values.
    u32 key_scales, value_scales;
#endif
};

// Whether heads have a scale each: see `int8.cuh`.
template <class S>
struct Scaled {
    enum { ARE = 0 };
};

// First element of a position's token, or ~0 if it has no page.
DEVICE u64 token_at(const Pages& c, const u32* table, u32 position) {
    u32 page = table[position / c.block];
    if (page >= c.pages) return ~0ull;
    return (u64)page * c.page_stride + (u64)(position % c.block) * c.token_stride;
}
