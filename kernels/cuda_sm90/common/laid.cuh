// x of 64 rows as wgmma takes it beside block-quantised weights from registers, and what
// of their chunks lies where in shared memory. Per chunk of 256 columns: four tiles of 64
// rows by 64 columns in the order of the weights' fragments, and the sums of each 32
// columns, which the minima meet.
#pragma once
#include "../../cuda_sm86/common/quant.cuh"
#include "wgmma.cuh"

enum {
    ROWS = 64,
    TILE_BYTES = ROWS * 128,
    // Four tiles, and 16 sums of each row.
    X_BYTES = 4 * TILE_BYTES + ROWS * 32,
};

// A quad's share of 32 columns in f16: of each lane's eight numbers the pair that meets
// this lane's words of the weights; and of all of them an eighth of the sum, and what f16
// left of it.
struct Share {
    uint4 h;
    u16 high, low;
};
// Of eight neighbours each. Whole quads call.
DEVICE Share share_of(const float (&v)[8]) {
    const u32 t = threadIdx.x & 3;
    const uint4 h = rounded8(v);
    auto pick = [&](u32 i) { return i < 2 ? (i == 0 ? h.x : h.y) : (i == 2 ? h.z : h.w); };
    const float e = quad_sum(sum8(h));
    u32 own[4];
#pragma unroll
    for (u32 k = 0; k < 4; ++k) own[k] = __shfl_xor_sync(0xffffffffu, pick(t ^ k), k);
    // Word k is lane t ^ k's.
    auto of_lane = [&](u32 i) { return (i ^ t) < 2 ? ((i ^ t) == 0 ? own[0] : own[1]) : ((i ^ t) == 2 ? own[2] : own[3]); };
    Share x;
    x.h = make_uint4(of_lane(0), of_lane(1), of_lane(2), of_lane(3));
    x.high = to_f16(e * 0.125f);
    x.low = to_f16(fmaf(e, 0.125f, -from_f16(x.high)));
    return x;
}
// That of the columns around i of row r, to a chunk of x.
DEVICE void lay(u8* chunk, u32 r, u32 i, const Share& x) {
    const u32 t = i / 8 % 4, sub = i / 32 % 8, tile = sub / 2;
    *(uint4*)(chunk + tile * TILE_BYTES + r * 128 + (((sub % 2 * 4 + t) ^ (r & 7)) << 4)) = x.h;
    if (t == 0) {
        // Sums and what they left, each in a matrix of 8 rows by 8.
        u16* to = (u16*)(chunk + 4 * TILE_BYTES + r / 8 * 256 + r % 8 * 16) + sub;
        to[0] = x.high;
        to[64] = x.low;
    }
}

// 64 columns by 16 from registers times 64 rows by 16.
DEVICE void multiply(float (&d)[32], const u32 (&a)[4], u64 b, u32 add) {
    wgmma<0>(d, a[0], a[1], a[2], a[3], b, add);
}
// 64 rows of 16 numbers in matrices of 8 by 8, the halves of K 128 bytes apart.
DEVICE u64 rows_of_32(u32 at) { return (u64)(256 >> 4) << 32 | (u64)(128 >> 4) << 16 | (at & 0x3ffff) >> 4; }

// Bytes to shared memory that lie together; they count at the barrier.
DEVICE void copy_bytes(u32 to, const void* from, u32 bytes, u32 barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
        "l"(from), "r"(bytes), "r"(barrier)
        : "memory");
}

// A lane's share of 64 columns of a chunk in shared memory.
DEVICE void shared_bits(q4_k_t::Bits& b, const u8* at, u32 tile, u32 lane) {
    b.q = *(const uint4*)(at + tile * 512 + lane * 16);
}
DEVICE void shared_bits(q5_k_t::Bits& b, const u8* at, u32 tile, u32 lane) {
    b.q = *(const uint4*)(at + tile * 512 + lane * 16);
    b.h = *(const u32*)(at + 2048 + tile * 128 + lane * 4);
}

// What of a panel's chunk lies where: scales of 64 columns, factors.
template <class Q>
DEVICE uint2 shared_scales(const u8* at, u32 tile, u32 g) {
    return *(const uint2*)(at + Q::CHUNK - 320 + tile * 64 + g * 8);
}
template <class Q>
DEVICE uint2 shared_factors(const u8* at, u32 g) {
    return *(const uint2*)(at + Q::CHUNK - 64 + g * 8);
}

// acc += 64 columns of weights, from a warp's panel of a chunk in shared memory, times the
// 64 rows of x. `between` is called while products are under way.
template <class Q, class F>
DEVICE void multiply_chunk(float (&acc)[32], const u8* w, u32 x, const F& between) {
    const u32 lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    float c[32], d[2], less[2];
    u32 a[2][4][4];
    // Minima first: numbers are unpacked while their product is under way.
    typename Q::Side side;
    side.s = shared_scales<Q>(w, t, g);
    side.d = shared_factors<Q>(w, g);
    Q::factors(side, d, less);
    whole_mins(side.s, a[1][0]);
    wgmma_fence();
    multiply(c, a[1][0], rows_of_32(x + 4 * TILE_BYTES), 0);
    wgmma_commit();
#pragma unroll
    for (u32 tile = 0; tile < 4; ++tile) {
        typename Q::Bits bits;
        shared_bits(bits, w, tile, lane);
        const uint2 scales = shared_scales<Q>(w, tile, g);
        // The product before the last has read its operand.
        if (tile >= 2) wgmma_wait<1>();
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            u32 s[4];
            whole_scales(scales, h, s);
            Q::scaled_word(bits, 2 * h, s, a[tile % 2][2 * h]);
            Q::scaled_word(bits, 2 * h + 1, s, a[tile % 2][2 * h + 1]);
        }
        if (tile == 0) {
            wgmma_wait<0>();
#pragma unroll
            for (int i = 0; i < 32; ++i) acc[i] = fmaf(-8.0f * less[i / 2 % 2], c[i], acc[i]);
        }
        const u64 b = rows_of_128(x + tile * TILE_BYTES);
        wgmma_fence();
#pragma unroll
        for (u32 i = 0; i < 4; ++i) multiply(c, a[tile % 2][i], b + i * 2, tile + i);
        wgmma_commit();
        if (tile == 1) between();
    }
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < 32; ++i) acc[i] = fmaf(d[i / 2 % 2], c[i], acc[i]);
}
