// Block-quantised weights, layout mma16, to bf16 [16·panels, columns], each number
// computed in f32 and rounded once, as the oracle's bf16 format has it.
// Launch: a warp for each 16 rows by 64 columns.
#pragma once
#include "quant_blocks.cuh"

struct UnpackTiles {
    const u8* w;
    u16* out;
    // `columns`: of a row of `out`, a multiple of 4; the rest of the last chunk is left out.
    u32 panels, chunks, columns;
};

template <class Q>
DEVICE void unpack_tiles(const UnpackTiles& p) {
    start_next();
    const u32 lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const u32 at = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), chunk = at / 4, tile = at % 4;
    const bool there = chunk < p.panels * p.chunks;
    const u8* w = p.w + (u64)(there ? chunk : 0) * Q::CHUNK;
    typename Q::Bits bits;
    typename Q::Side side;
    Q::load_bits(bits, w, tile, lane);
    Q::load_side(side, w, tile, g);
    // Weights are no kernel's work, but the one ahead may still read the last ones' places.
    wait_for_previous();
    if (!there) return;
    const u32 first = chunk % p.chunks * 256 + tile * 64;
    u16* out = p.out + (u64)(chunk / p.chunks * 16 + g) * p.columns;
    // Not unrolled: there are many schemes, and stores are what takes time.
#pragma unroll 1
    for (u32 i = 0; i < 4; ++i) {
        const u32 column = first + (Q::SUB == 16 ? i * 16 + t * 4 : i / 2 * 32 + t * 8 + i % 2 * 4);
        if (column >= p.columns) return;
        // Of rows g and g + 8.
        float a[2], b[2], scale[2], low[2] = {};
        const bool second = Q::SUB == 16 ? i % 2 : i / 2;
        Q::pair(side, Q::SUB == 16 ? i / 2 : 0, a, b);
        scale[0] = second ? a[1] : a[0];
        scale[1] = second ? b[1] : b[0];
        if constexpr (Q::LOWS) {
            Q::lows(side, Q::SUB == 16 ? i / 2 : 0, a, b);
            low[0] = second ? a[1] : a[0];
            low[1] = second ? b[1] : b[0];
        }
        // Fragments: the two rows in turn, two neighbours each.
        u32 q[4], v[2][2];
        Q::plain_word(bits, i, q);
#pragma unroll
        for (int f = 0; f < 4; ++f) {
            const int row = f % 2;
            float x = __fmul_rn(low_f16(q[f]), scale[row]), y = __fmul_rn(high_f16(q[f]), scale[row]);
            if (Q::LOWS) {
                x = __fadd_rn(x, low[row]);
                y = __fadd_rn(y, low[row]);
            }
            v[row][f / 2] = to_bf16x2(x, y);
        }
        *(uint2*)(out + column) = make_uint2(v[0][0], v[0][1]);
        *(uint2*)(out + (u64)8 * p.columns + column) = make_uint2(v[1][0], v[1][1]);
    }
}

#define UNPACK(Q) KERNEL unpack_##Q(const UnpackTiles p) { unpack_tiles<Q##_t>(p); }
UNPACK(q4_1)
UNPACK(q5_0)
UNPACK(q5_1)
UNPACK(q2_k)
UNPACK(q3_k)
UNPACK(iq4_nl)
UNPACK(iq4_xs)
UNPACK(mxfp4)
UNPACK(w4_paro)
