// ops: linear, two or three of them over one x, gate and up with SiLU, an add behind;
// many rows. yᵢ[r, n] = Σₖ x[r, k]·wᵢ[n, k] (+ biasᵢ[n]) (+ add[r, n]), x and w of 16
// bits, sums in f32.
// `round_*`: x f32 [R, K] to 16 bits [R, K], to nearest even, K % 8 == 0.
// `unpack_*`: block-quantised w, layout mma16, to bf16 [16·panels, 256·chunks], each
// number computed in f32 and rounded once, as the oracle's bf16 format has it.
// Launch: a warp for each chunk.
// `gemm_*`, `gated_*`: a grid of pairs of blocks that walk over tiles of 256 rows by 256
// columns (128 of gate and as many of up), each block having half of the rows. A warp
// asks the copy engine for 64 of K at a time, four stages ahead: own rows of x, and of w
// one half for both blocks. Two groups of four warps multiply, 64 rows each. Rows of x
// behind the last are whatever lies there; they meet no other row, and are not stored.
// Tolerance 5e-5.
#include "../../cuda_sm86/common/quant.cuh"
#include "wgmma.cuh"

struct Round {
    const float* x;
    u16* out;
    const u32* count;
    u32 k, x_stride, aligned;
};

template <class S>
DEVICE void round_rows(const Round& p) {
    start_next();
    wait_for_previous();
    const u32 i = 8 * (blockIdx.x * blockDim.x + threadIdx.x), r = blockIdx.y;
    if (i >= p.k || r >= real_rows(p.count)) return;
    float v[8];
    load8(v, p.x + (u64)r * p.x_stride + i, p.aligned != 0);
    *(uint4*)(p.out + (u64)r * p.k + i) =
        make_uint4(S::pair(v[0], v[1]), S::pair(v[2], v[3]), S::pair(v[4], v[5]), S::pair(v[6], v[7]));
}

KERNEL round_bf16(const Round p) { round_rows<bf16_t>(p); }

struct Unpack {
    const u8* w;
    u16* out;
    u32 panels, chunks;
};

template <class Q>
DEVICE void unpack(const Unpack& p) {
    start_next();
    const u32 lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const u32 chunk = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    const bool there = chunk < p.panels * p.chunks;
    const u8* w = p.w + (u64)(there ? chunk : 0) * Q::CHUNK;
    typename Q::Bits bits[4];
    typename Q::Side side[4];
#pragma unroll
    for (u32 tile = 0; tile < 4; ++tile) {
        Q::load_bits(bits[tile], w, tile, lane);
        Q::load_side(side[tile], w, tile, g);
    }
    // Weights are no kernel's work, but the one ahead may still read the last ones' places.
    wait_for_previous();
    if (!there) return;
    const u32 stride = p.chunks * 256;
    u16* out = p.out + (u64)(chunk / p.chunks * 16 + g) * stride + chunk % p.chunks * 256;
#pragma unroll
    for (u32 tile = 0; tile < 4; ++tile) {
        // Of rows g and g + 8, by the tile's blocks.
        float scale[4][2], least[4][2] = {};
        Q::pair(side[tile], 0, *(float(*)[2]) & scale[0], *(float(*)[2]) & scale[1]);
        if constexpr (Q::SUB == 16) Q::pair(side[tile], 1, *(float(*)[2]) & scale[2], *(float(*)[2]) & scale[3]);
        if constexpr (Q::MINS) {
            float d[2], m[2];
            Q::pair_mins(side[tile], *(float(*)[2]) & least[0], *(float(*)[2]) & least[1]);
            Q::factors(side[tile], d, m);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                scale[i / 2][i % 2] *= d[i / 2];
                least[i / 2][i % 2] *= m[i / 2];
            }
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            // Fragments: rows g and g + 8 in turn, two neighbours each.
            u32 a[4], v[2][2];
            Q::plain_word(bits[tile], i, a);
#pragma unroll
            for (int f = 0; f < 4; ++f) {
                const int row = f % 2, sub = Q::SUB == 16 ? i % 2 : i / 2, half = Q::SUB == 16 ? i / 2 * 2 : 0;
                const float s = scale[half + row][sub], m = least[half + row][sub];
                const float x = __fmul_rn(low_f16(a[f]), s), y = __fmul_rn(high_f16(a[f]), s);
                v[row][f / 2] = to_bf16x2(__fsub_rn(x, m), __fsub_rn(y, m));
            }
            const u32 at = tile * 64 + (Q::SUB == 16 ? i * 16 + t * 4 : i / 2 * 32 + t * 8 + i % 2 * 4);
            *(uint2*)(out + at) = make_uint2(v[0][0], v[0][1]);
            *(uint2*)(out + (u64)8 * stride + at) = make_uint2(v[1][0], v[1][1]);
        }
    }
}

KERNEL unpack_q4_0(const Unpack p) { unpack<q4_0_t>(p); }
KERNEL unpack_q8_0(const Unpack p) { unpack<q8_0_t>(p); }
KERNEL unpack_q4_k(const Unpack p) { unpack<q4_k_t>(p); }
KERNEL unpack_q5_k(const Unpack p) { unpack<q5_k_t>(p); }
KERNEL unpack_q6_k(const Unpack p) { unpack<q6_k_t>(p); }

struct Gemm {
    TensorMap x16;
    TensorMap w16[3];
    const void* x;
    const void* w[3];
    const float* bias[3];
    float* y[3];
    const u32* count;
    const float* norm;
    const float* add;
    u32 k, n[3], y_stride[3], add_stride;
    // Whether rows of y and of what is added start at 8-byte pieces.
    u32 wide;
};

enum {
    ROWS = 128,
    COLUMNS = 256,
    DEPTH = 64,
    STAGES = 4,
    X_BYTES = ROWS * DEPTH * 2,
    W_BYTES = COLUMNS * DEPTH * 2,
    STAGE = X_BYTES + W_BYTES,
    MULTIPLIERS = 2,
    // Pairs of blocks whose rows stay in the cache while columns pass.
    PAIRS_TOGETHER = 8,
};

// Tile number `i` of `pairs` × `tiles`: groups of rows, all columns of a group before
// the next.
DEVICE void tile_of(u32 i, u32 pairs, u32 tiles, u32& pair, u32& tile) {
    const u32 group = i / (PAIRS_TOGETHER * tiles), first = group * PAIRS_TOGETHER;
    const u32 size = min(pairs - first, (u32)PAIRS_TOGETHER), rest = i - first * tiles;
    pair = first + rest % size;
    tile = rest / size;
}

// Which matrix, and the first of its columns.
template <int WIDTH>
DEVICE void columns_of(const Gemm& p, u32 tile, u32& m, u32& n0) {
    m = 0;
#pragma unroll
    for (u32 i = 0; i < 2; ++i) {
        const u32 own = (p.n[i] + WIDTH - 1) / WIDTH;
        if (m == i && tile >= own && p.n[i + 1]) {
            tile -= own;
            m = i + 1;
        }
    }
    n0 = tile * WIDTH;
}

// Two neighbours of a row.
template <bool GATED>
DEVICE void store_pair(const Gemm& p, u32 m, u64 row, u32 n, float2 v, float2 up, float2 added) {
    const bool second = n + 1 < p.n[m];
    if (p.bias[m]) {
        v.x += p.bias[m][n];
        if (second) v.y += p.bias[m][n + 1];
    }
    if (GATED) {
        if (p.bias[1]) {
            up.x += p.bias[1][n];
            if (second) up.y += p.bias[1][n + 1];
        }
        v.x = silu(v.x) * up.x;
        v.y = silu(v.y) * up.y;
    }
    v.x += added.x;
    v.y += added.y;
    float* y = p.y[m] + row * p.y_stride[m] + n;
    if (p.wide && second) {
        *(float2*)y = v;
    } else {
        y[0] = v.x;
        if (second) y[1] = v.y;
    }
}

DEVICE float2 load_pair(const Gemm& p, u64 row, u32 n, bool second) {
    const float* at = p.add + row * p.add_stride + n;
    if (p.wide && second) return *(const float2*)at;
    return make_float2(at[0], second ? at[1] : 0.0f);
}

template <bool GATED>
DEVICE void store_tile(const Gemm& p, const float (&acc)[128], u32 row0, u32 m, u32 n0, u32 rows) {
    const u32 lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const u32 width = GATED ? 128 : 256, n1 = min(p.n[m], n0 + width);
#pragma unroll
    for (u32 h = 0; h < 2; ++h) {
        const u32 row = row0 + g + 8 * h;
        if (row >= rows) continue;
#pragma unroll
        for (u32 part = 0; part < width / 64; ++part) {
            float2 added[8];
#pragma unroll
            for (u32 i = 0; i < 8; ++i) {
                const u32 n = n0 + part * 64 + i * 8 + t * 2;
                added[i] = p.add && n < n1 ? load_pair(p, row, n, n + 1 < n1) : make_float2(0.0f, 0.0f);
            }
#pragma unroll
            for (u32 i = 0; i < 8; ++i) {
                const u32 n = n0 + part * 64 + i * 8 + t * 2, at = (part * 8 + i) * 4 + 2 * h;
                const u32 other = GATED ? at + 64 : at;
                if (n < n1) {
                    store_pair<GATED>(p, m, row, n, make_float2(acc[at], acc[at + 1]),
                                      make_float2(acc[other], acc[other + 1]), added[i]);
                }
            }
        }
    }
}

template <class S, bool GATED>
DEVICE void gemm(const Gemm& p) {
    extern __shared__ __align__(1024) u8 shared_bytes[];
    const u32 WIDTH = GATED ? 128 : 256;
    // Stages start at multiples of 1024 bytes, barriers lie behind them.
    const u32 base = shared_address(shared_bytes) + 1023 & ~1023u;
    const u32 full = base + STAGES * STAGE, empty = full + STAGES * 8;
    const u32 rank = cluster_rank(), group = threadIdx.x >> 7;
    start_next();
    if (threadIdx.x == 0) {
        for (u32 s = 0; s < STAGES; ++s) {
            barrier_init(full + s * 8, 1);
            // Each warp that multiplies, of both blocks.
            barrier_init(empty + s * 8, 2 * MULTIPLIERS * 4);
        }
        barriers_ready();
    }
    cluster_sync();
    wait_for_previous();

    const u32 rows = real_rows(p.count), pairs = (rows + 2 * ROWS - 1) / (2 * ROWS);
    u32 tiles = (p.n[0] + WIDTH - 1) / WIDTH;
    if (!GATED) tiles += (p.n[1] + WIDTH - 1) / WIDTH + (p.n[2] + WIDTH - 1) / WIDTH;
    const u32 all = pairs * tiles, step = gridDim.x / 2, steps = (p.k + DEPTH - 1) / DEPTH;
    u32 stage = 0, parity = 0;
    auto advance = [&] {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    };
    if (group == 0) {
        fewer_registers<40>();
        if (threadIdx.x == 0) {
            fence_for_copies();
            for (u32 i = blockIdx.x / 2; i < all; i += step) {
                u32 pair, tile, m, n0;
                tile_of(i, pairs, tiles, pair, tile);
                columns_of<WIDTH>(p, tile, m, n0);
                const u32 r0 = pair * 2 * ROWS + rank * ROWS;
                const TensorMap* w = &p.w16[GATED ? rank : m];
                const u32 w0 = GATED ? n0 : n0 + rank * 128;
                for (u32 k = 0; k < steps; ++k) {
                    barrier_wait(empty + stage * 8, parity ^ 1);
                    const u32 at = base + stage * STAGE, bar = full + stage * 8;
                    barrier_expect(bar, STAGE);
                    copy_box(at, &p.x16, k * DEPTH, r0, bar);
                    copy_box_to_both(at + X_BYTES + rank * (W_BYTES / 2), w, k * DEPTH, w0, bar);
                    advance();
                }
            }
        }
    } else {
        more_registers<232>();
        const u32 lane = threadIdx.x & 31, own = (group - 1) * 64;
        float acc[128];
        for (u32 i = blockIdx.x / 2; i < all; i += step) {
            u32 last = 0;
            for (u32 k = 0; k < steps; ++k) {
                barrier_wait(full + stage * 8, parity);
                const u32 at = base + stage * STAGE;
                const u64 a = rows_of_128(at + own * 128), b = rows_of_128(at + X_BYTES);
                wgmma_fence();
#pragma unroll
                for (u32 d = 0; d < DEPTH / 16; ++d) wgmma(acc, a + d * 2, b + d * 2, k + d, S());
                wgmma_commit();
                // The stage before has been read.
                wgmma_wait<1>();
                if (k > 0 && lane < 2) barrier_arrive_at(empty + last * 8, lane);
                last = stage;
                advance();
            }
            wgmma_wait<0>();
            if (lane < 2) barrier_arrive_at(empty + last * 8, lane);
            u32 pair, tile, m, n0;
            tile_of(i, pairs, tiles, pair, tile);
            columns_of<WIDTH>(p, tile, m, n0);
            store_tile<GATED>(p, acc, pair * 2 * ROWS + rank * ROWS + own + (threadIdx.x >> 5 & 3) * 16, m, n0, rows);
        }
    }
    // No block leaves while the other still writes to it.
    cluster_sync();
}

KERNEL __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1) gemm_bf16(const __grid_constant__ Gemm p) {
    gemm<bf16_t, false>(p);
}
KERNEL __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1) gated_bf16(const __grid_constant__ Gemm p) {
    gemm<bf16_t, true>(p);
}
