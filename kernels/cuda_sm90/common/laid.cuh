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

// Eight numbers in f16, and of their quad's eighths of the sum in f16 what that left.
struct Eight {
    uint4 h;
    u16 high, low;
};
// Whole quads call.
DEVICE Eight eight(const float (&v)[8]) {
    Eight x;
    x.h = rounded8(v);
    const float e = quad_sum(sum8(x.h));
    x.high = to_f16(e * 0.125f);
    x.low = to_f16(fmaf(e, 0.125f, -from_f16(x.high)));
    return x;
}
// Those from column i of row r on, to a chunk of x.
DEVICE void lay8(u8* chunk, u32 r, u32 i, const Eight& x) {
    const u32 t = i / 8 % 4, sub = i / 32 % 8, tile = sub / 2;
    // Of 16 columns that meet a word of the weights, a lane's first two lie in one piece of
    // 16 bytes and its last two in the next.
    u8* row = chunk + tile * TILE_BYTES + r * 128 + t * 4;
    const u32 piece = sub % 2 * 4, turn = r & 7;
    *(u32*)(row + ((piece ^ turn) << 4)) = x.h.x;
    *(u32*)(row + (((piece + 1) ^ turn) << 4)) = x.h.y;
    *(u32*)(row + (((piece + 2) ^ turn) << 4)) = x.h.z;
    *(u32*)(row + (((piece + 3) ^ turn) << 4)) = x.h.w;
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
