// What `flash.cuh` does over int8_kv. A tile's codes come to shared memory as they are;
// each thread brings those that it copied to f16, which is exact, and the tensor cores see
// nothing else. A key's scale goes to its score, a value's to its weight.
#pragma once
#include "../common/int8.cuh"

#include "flash.cuh"

// Of the tile's tokens, in shared memory; zero where there is nothing.
struct Scales {
    enum { ARE = 1 };
    const float* keys;
    const float* values;
    // Of what a row has seen, the largest of the values' as a power of two: its o and its
    // weights are over it. At first the smallest that an f16 can be.
    float over[2], most[2];

    DEVICE Scales at(const float* shared, u32 tile) { return {shared, shared + tile, {5.9604645e-8f, 5.9604645e-8f}}; }
    __device__ __forceinline__ void start() { most[0] = most[1] = 0.0f; }
    __device__ __forceinline__ float of_key(bool seen, u32 row, u32 token) {
        if (seen) most[row] = fmaxf(most[row], values[token]);
        return keys[token];
    }
    // What o is to be multiplied by.
    __device__ __forceinline__ float kept(u32 row) {
        const float now = __uint_as_float(__float_as_uint(quad_max(most[row])) & 0x7f800000u);
        const float before = over[row];
        over[row] = fmaxf(before, now);
        return before * over_one(over[row]);
    }
    __device__ __forceinline__ float of_value(u32 row, u32 token) { return values[token] * over_one(over[row]); }
};

// What the compiler must not move: copies to shared memory are no accesses that it knows of.
DEVICE void in_order() { asm volatile("" ::: "memory"); }

// Codes of keys (or of values, `beside` bytes behind) of tokens from `at` on, on their way to
// `to`: 16-byte piece c of a token behind that of the token before.
template <int D, int TILE, int THREADS>
DEVICE void fetch_codes(const Args& p, const View& view, const u32* table, const u8* keys, u32 at, u64 beside, u32 to) {
#pragma unroll 4
    for (u32 i = 0; i < TILE * D / 16 / THREADS; ++i) {
        const u32 piece = threadIdx.x + i * THREADS, token = piece / (D / 16), c = piece % (D / 16);
        const u8* key;
        const bool there = key_of(p, view, table, keys, at + token, c, key);
        copy_async(to + piece * 16, there ? key + beside : keys, there);
    }
}

// The scale that this thread brings of tokens from `at` on: of keys, then of values.
template <int TILE>
DEVICE u16 fetch_scale(const Args& p, const View& view, const u32* table, u32 kv_head, u32 at) {
    const u32 token = at + threadIdx.x % TILE, page = table[min(token, view.last) >> p.shift];
    const bool there = token >= view.first && token <= view.last && page < p.c.pages;
    return there ? *int8_kv_t::scale_at(p.cache, p.c, table, token, kv_head, threadIdx.x >= TILE) : 0;
}

// The codes that this thread fetched, as a tile of f16.
template <int D, int TILE, int THREADS>
DEVICE void expand(u8* tile, const u8* codes) {
#pragma unroll 4
    for (u32 i = 0; i < TILE * D / 16 / THREADS; ++i) {
        const u32 piece = threadIdx.x + i * THREADS, token = piece / (D / 16), c = piece % (D / 16);
#pragma unroll
        for (u32 n = 0; n < 2; ++n) {
            // Eight lanes write to all banks.
            const u32 half = n ^ (c >> 2 & 1);
            const uint2 v = *(const uint2*)(codes + piece * 16 + half * 8);
            uint4 to;
            codes_f16(v.x, to.x, to.y);
            codes_f16(v.y, to.z, to.w);
            *(uint4*)(tile + piece_of<D>(token, c * 2 + half)) = to;
        }
    }
}
