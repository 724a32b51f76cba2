// ops: linear, two or three of them over one x, gate and up with SiLU, an add behind or
// an rms_norm ahead; many rows. yᵢ[r, n] = Σₖ x[r, k]·wᵢ[n, k] (+ biasᵢ[n]) (+ add[r, n]), x and w of 16
// bits, sums in f32.
// `round_*`: x f32 [R, K] to 16 bits [R, K], to nearest even, K % 8 == 0.
// `norm_bf16`: the same of x·rsqrt(mean(x²) + eps)·(w + offset). A block for each row.
// `unpack_*`: block-quantised w, layout mma16, to bf16 [16·panels, 256·chunks], each
// number computed in f32 and rounded once, as the oracle's bf16 format has it.
// Launch: a warp for each chunk; the schemes of `unpack.cuh`: for each 64 columns of one.
// `gemm_*`, `gated_*`: a grid of pairs of blocks that walk over tiles of 256 rows by 256
// columns (128 of gate and as many of up), each block having half of the rows. A warp
// asks the copy engine for 64 of K at a time, four stages ahead: own rows of x, and of w
// one half for both blocks. Two groups of four warps multiply, 64 rows each. Rows of x
// behind the last are whatever lies there; they meet no other row, and are not stored.
// Tolerance 1e-4; behind a norm, whose last bits turn roundings, 8e-3.
#include "../../cuda_sm86/common/quant.cuh"
#include "../../cuda_sm86/common/reduce.cuh"
#include "../../cuda_sm86/common/unpack.cuh"
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

struct Norm {
    const float* x;
    const float* w;
    u16* out;
    const u32* count;
    u32 k, x_stride, aligned;
    float eps, offset;
};

KERNEL __launch_bounds__(256) norm_bf16(const Norm p) {
    // Pieces of a row that a thread keeps between the passes.
    const u32 KEPT = 4, PIECES = 256 * 8;
    start_next();
    wait_for_previous();
    const u32 r = blockIdx.x, first = threadIdx.x * 8;
    if (r >= real_rows(p.count)) return;
    const float* x = p.x + (u64)r * p.x_stride;
    float v[KEPT][8], sum = 0.0f;
#pragma unroll
    for (u32 j = 0; j < KEPT; ++j) {
        if (first + j * PIECES < p.k) load8(v[j], x + first + j * PIECES, p.aligned != 0);
    }
#pragma unroll
    for (u32 j = 0; j < KEPT; ++j) {
        if (first + j * PIECES >= p.k) break;
#pragma unroll
        for (int e = 0; e < 8; ++e) sum = fmaf(v[j][e], v[j][e], sum);
    }
    for (u32 i = first + KEPT * PIECES; i < p.k; i += PIECES) {
        float more[8];
        load8(more, x + i, p.aligned != 0);
#pragma unroll
        for (int e = 0; e < 8; ++e) sum = fmaf(more[e], more[e], sum);
    }
    const float scale = 1.0f / sqrtf(block_sum(sum) / (float)p.k + p.eps);
    auto put = [&](u32 i, const float(&v)[8]) {
        u32 y[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const float a = v[2 * e] * scale * (p.w[i + 2 * e] + p.offset);
            y[e] = to_bf16x2(a, v[2 * e + 1] * scale * (p.w[i + 2 * e + 1] + p.offset));
        }
        *(uint4*)(p.out + (u64)r * p.k + i) = make_uint4(y[0], y[1], y[2], y[3]);
    };
#pragma unroll
    for (u32 j = 0; j < KEPT; ++j) {
        if (first + j * PIECES < p.k) put(first + j * PIECES, v[j]);
    }
    for (u32 i = first + KEPT * PIECES; i < p.k; i += PIECES) {
        float more[8];
        load8(more, x + i, p.aligned != 0);
        put(i, more);
    }
}

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
    TensorMap w16[MATRICES];
    const void* x;
    const void* w[MATRICES];
    const float* bias[MATRICES];
    float* y[MATRICES];
    const u32* count;
    const float* norm;
    const float* add;
    u32 k, n[MATRICES], y_stride[MATRICES], add_stride;
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
    for (u32 i = 0; i < MATRICES - 1; ++i) {
        const u32 own = (p.n[i] + WIDTH - 1) / WIDTH;
        if (m == i && tile >= own && p.n[i + 1]) {
            tile -= own;
            m = i + 1;
        }
    }
    n0 = tile * WIDTH;
}

DEVICE float quick_silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

// Two neighbours of a row, or the last one.
template <bool GATED>
DEVICE void store_pair(const Gemm& p, u32 m, u64 row, u32 n, float2 v, float2 up) {
    const float both[2] = {v.x, v.y}, ups[2] = {up.x, up.y};
#pragma unroll 1
    for (u32 e = 0; e < 2 && n + e < p.n[m]; ++e) {
        float x = e ? both[1] : both[0];
        if (p.bias[m]) x += p.bias[m][n + e];
        if (GATED) x = silu(x) * ((e ? ups[1] : ups[0]) + (p.bias[1] ? p.bias[1][n + e] : 0.0f));
        if (p.add) x += p.add[row * p.add_stride + n + e];
        p.y[m][row * p.y_stride[m] + n + e] = x;
    }
}

// Products of a warp that lie in the matrix, without a bias, at 8-byte pieces.
template <bool GATED, bool ADD>
DEVICE void store_inside(const Gemm& p, const float (&acc)[128], u32 row, u32 m, u32 n0) {
    const u32 PAIRS = GATED ? 16 : 32, TOGETHER = 16;
#pragma unroll
    for (u32 h = 0; h < 2; ++h) {
        float* y = p.y[m] + (u64)(row + 8 * h) * p.y_stride[m] + n0;
        const float* add = ADD ? p.add + (u64)(row + 8 * h) * p.add_stride + n0 : y;
#pragma unroll
        for (u32 first = 0; first < PAIRS; first += TOGETHER) {
            float2 v[TOGETHER];
            if (ADD) {
#pragma unroll
                for (u32 i = 0; i < TOGETHER; ++i) v[i] = *(const float2*)(add + (first + i) * 8);
            }
#pragma unroll
            for (u32 i = 0; i < TOGETHER; ++i) {
                const u32 at = (first + i) * 4 + 2 * h;
                float x = acc[at], z = acc[at + 1];
                if (GATED) {
                    x = quick_silu(x) * acc[at + 64];
                    z = quick_silu(z) * acc[at + 65];
                }
                if (ADD) {
                    x += v[i].x;
                    z += v[i].y;
                }
                __stcs((float2*)(y + (first + i) * 8), make_float2(x, z));
            }
        }
    }
}

template <bool GATED>
DEVICE void store_tile(const Gemm& p, const float (&acc)[128], u32 row0, u32 m, u32 n0, u32 rows) {
    const u32 lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const u32 width = GATED ? 128 : 256, n1 = min(p.n[m], n0 + width);
    if (p.wide && row0 + 16 <= rows && n0 + width <= p.n[m] && !p.bias[m] && !(GATED && p.bias[1])) {
        if (p.add) {
            store_inside<GATED, true>(p, acc, row0 + g, m, n0 + t * 2);
        } else {
            store_inside<GATED, false>(p, acc, row0 + g, m, n0 + t * 2);
        }
        return;
    }
#pragma unroll
    for (u32 i = 0; i < width / 4; ++i) {
        const u32 row = row0 + g + 8 * (i % 2), n = n0 + i / 2 * 8 + t * 2, at = i * 2;
        if (row < rows && n < n1) {
            const u32 other = GATED ? at + 64 : at;
            store_pair<GATED>(p, m, row, n, make_float2(acc[at], acc[at + 1]), make_float2(acc[other], acc[other + 1]));
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
    const u32 tiles = GATED ? (p.n[0] + WIDTH - 1) / WIDTH : units_of(p.n, WIDTH);
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
            u32 last = 0, pair, tile, m, n0;
            tile_of(i, pairs, tiles, pair, tile);
            columns_of<WIDTH>(p, tile, m, n0);
            const u32 row0 = pair * 2 * ROWS + rank * ROWS + own;
            if (!GATED && p.add) {
                // What is added will be near when it is asked for: 8 lines of each row.
                const u32 row = row0 + (threadIdx.x >> 1 & 63), n = n0 + (threadIdx.x & 1) * 128;
#pragma unroll
                for (u32 j = 0; j < 4; ++j) {
                    if (row < rows && n + j * 32 < p.n[m]) prefetch(p.add + (u64)row * p.add_stride + n + j * 32);
                }
            }
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
            store_tile<GATED>(p, acc, row0 + (threadIdx.x >> 5 & 3) * 16, m, n0, rows);
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
