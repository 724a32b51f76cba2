// Many rows times the matrices of the experts that each chose, block-quantised with scales
// that are whole numbers; also gate and up with SiLU. y[t, j] = wₑ·f16(x[t]) (+ biasₑ), e =
// chosen[t, j]. Pairs (t, j) are brought in order of their experts, see `sorted_pairs.cuh`.
// `lay_pairs`: x f32 [T, K] or [T, parts, K] to f16, tile by tile of 64 pairs of an expert,
// as `laid.cuh` has it. A warp for each row.
// `grouped_*`, `gated_*`: as many blocks as there are multiprocessors walk over tiles of 64
// pairs by 256 columns, or 128 of gate and as many of up. Per chunk of 256 of K the copy
// engine brings x and the weights of 16 panels of 16, up to two chunks ahead, over the
// ends of tiles. Each of four groups of four warps multiplies 64 columns, as in `few.cu`;
// those of up hand their sums to those of gate. Pairs behind a tile's last are whatever
// lies there; they meet no other pair. A pair's sums depend on nothing but its own row.
// Tolerance 1e-4.
#include "../../cuda_sm86/common/sorted_pairs.cuh"
#include "laid.cuh"

enum {
    THREADS = 512,
    PANELS = 16,
    // What a block may have, less what its launch does not ask for and the barriers.
    MOST_SHARED = 232448 - 5120 - 64,
    // Of eight sums of each thread of up's groups.
    EXCHANGE = 2 * 128 * 8 * 4,
    // Items that may be under way: the one that a slow warp stores, those of its stages.
    AHEAD = 4,
};

struct LayPairs {
    const float* x;
    u8* out;
    const u32* starts;
    const u32* places;
    const u32* chosen;
    const u32* count;
    // `x_part`: distance of a row's parts, each of which has an x; 0 where they share it.
    u32 k, x_stride, x_part, parts, chosen_stride, stack, chunks, aligned;
};

KERNEL __launch_bounds__(256) lay_pairs(const LayPairs p) {
    __shared__ u32 before[MOST_EXPERTS + 1], sums[32];
    start_next();
    wait_for_previous();
    count_tiles<256>(p.starts, p.stack, before, sums);
    const u32 row = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (row >= real_rows(p.count)) return;
    for (u32 first = 0; first < p.parts; first += 32) {
        // Where the lane's part goes: its tile and row there in one number.
        const u32 some = min(p.parts - first, 32u), nowhere = ~0u;
        u32 at = nowhere;
        if (lane < some) {
            const u32 e = p.chosen[(u64)row * p.chosen_stride + first + lane];
            if (e < p.stack) at = before[e] * GROUP + p.places[(u64)row * p.parts + first + lane] - p.starts[e];
        }
        for (u32 own = 0; own < (p.x_part ? some : 1); ++own) {
            const float* x = p.x + (u64)row * p.x_stride + (first + own) * p.x_part;
            for (u32 i = lane * 8; i < p.chunks * 256; i += 256) {
                float v[8] = {};
                if (i < p.k) load8(v, x + i, p.aligned != 0);
                const Share share = share_of(v);
                for (u32 j = own; j < (p.x_part ? own + 1 : some); ++j) {
                    const u32 to = __shfl_sync(0xffffffffu, at, j);
                    if (to != nowhere) lay(p.out + ((u64)(to / GROUP) * p.chunks + i / 256) * X_BYTES, to % GROUP, i, share);
                }
            }
        }
    }
}

struct Grouped {
    const u8* x;
    const u8* w;
    const u8* up;
    const float* bias;
    const float* up_bias;
    float* y;
    const u32* starts;
    const u32* pairs;
    // `tiles`: of an expert's columns. n % 16 == 0.
    u32 chunks, n, stack, parts, y_stride, tiles;
};

template <class Q, bool GATED>
DEVICE void grouped(const Grouped& p) {
    extern __shared__ __align__(1024) u8 shared_bytes[];
    __shared__ u32 before[MOST_EXPERTS + 1], sums[32];
    const u32 WIDTH = GATED ? 128 : 256, W_BYTES = PANELS * Q::CHUNK;
    const u32 STAGE = (X_BYTES + W_BYTES + 1023) & ~1023u;
    const u32 STAGES = 3 * STAGE + EXCHANGE <= MOST_SHARED ? 3 : 2;
    const u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    // The declaration aligns it: there is no room to do so here.
    u8* const stages = shared_bytes;
    if (shared_address(stages) & 1023) __trap();
    const u32 base = shared_address(stages), full = base + STAGES * STAGE + EXCHANGE, empty = full + STAGES * 8;
    if (threadIdx.x == 0) {
        for (u32 s = 0; s < STAGES; ++s) {
            barrier_init(full + s * 8, 1);
            barrier_init(empty + s * 8, THREADS / 32);
        }
        barriers_ready();
    }
    start_next();
    wait_for_previous();
    count_tiles<THREADS>(p.starts, p.stack, before, sums);
    const u32 all = before[MOST_EXPERTS] * p.tiles;

    // The first warp fetches, chunk by chunk: where it is, where a lane's panel starts, and
    // of the next items the expert, the first pair, how many there are.
    __shared__ const u8* panels[PANELS];
    __shared__ u32 infos[AHEAD][3];
    u32 item = blockIdx.x, chunk = 0, ordinal = 0;
    auto fetch = [&](u32 number) {
        if (warp != 0 || item >= all) return;
        const u32 stage = number % STAGES, bar = full + stage * 8, at = base + stage * STAGE;
        // First of all: an item's place here is free once its stage is.
        if (number >= STAGES) barrier_wait(empty + stage * 8, number / STAGES - 1 & 1);
        const u32 tile = item / p.tiles;
        if (chunk == 0 && lane < PANELS) {
            const u32 e = expert_of(before, tile), own = p.n / 16;
            if (lane == 0) {
                const u32 first = p.starts[e] + (tile - before[e]) * GROUP;
                infos[ordinal % AHEAD][0] = e;
                infos[ordinal % AHEAD][1] = first;
                infos[ordinal % AHEAD][2] = min(p.starts[e + 1] - first, (u32)GROUP);
            }
            // Panels behind the expert's last are the last once more.
            const u32 panel = item % p.tiles * (WIDTH / 16) + (GATED ? lane % 8 : lane);
            panels[lane] = (GATED && lane >= 8 ? p.up : p.w) + (u64)(e * own + min(panel, own - 1)) * p.chunks * Q::CHUNK;
        }
        if (lane == 0) {
            barrier_expect(bar, X_BYTES + W_BYTES);
            copy_bytes(at, p.x + ((u64)tile * p.chunks + chunk) * X_BYTES, X_BYTES, bar);
        }
        __syncwarp();
        if (lane < PANELS) copy_bytes(at + X_BYTES + lane * Q::CHUNK, panels[lane] + (u64)chunk * Q::CHUNK, Q::CHUNK, bar);
        if (++chunk == p.chunks) {
            chunk = 0;
            item += gridDim.x;
            ++ordinal;
        }
    };
    if (warp == 0) fence_for_copies();
    for (u32 s = 0; s < STAGES - 1; ++s) fetch(s);

    // Groups 0 and 1 have gate, 2 and 3 the same columns of up.
    const u32 own = threadIdx.x & 127, twin = warp >> 2 & 1;
    const bool up = GATED && warp >= 8;
    float* exchange = (float*)(stages + STAGES * STAGE) + twin * (8 * 128) + own;
    u32 done = 0, turn = 0;
    for (u32 i = blockIdx.x; i < all; i += gridDim.x, ++turn) {
        const u32(&info)[3] = infos[turn % AHEAD];
        u32 pair[2];
        float acc[32];
#pragma unroll
        for (u32 e = 0; e < 32; ++e) acc[e] = 0.0f;
        for (u32 c = 0; c < p.chunks; ++c, ++done) {
            const u32 stage = done % STAGES;
            barrier_wait(full + stage * 8, done / STAGES & 1);
            const u8* w = stages + stage * STAGE + X_BYTES + warp * Q::CHUNK;
            if (c == 0) {
                // With the first chunk the item is known.
#pragma unroll
                for (u32 j = 0; j < 2; ++j) pair[j] = p.pairs[info[1] + min(lane + j * 32, info[2] - 1)];
            }
            // Fetches where other groups may be half a chunk behind.
            multiply_chunk<Q>(acc, w, base + stage * STAGE, [&] { fetch(done + STAGES - 1); });
            if (lane == 0) barrier_arrive(empty + stage * 8);
        }
        const u32 e = info[0], have = info[2], first = i % p.tiles * WIDTH + (GATED ? warp % 8 : warp) * 16 + g;
        const float* bias = p.bias ? p.bias + (u64)e * p.n : nullptr;
        const float* up_bias = p.up_bias ? p.up_bias + (u64)e * p.n : nullptr;
        // Where the lane's pairs go.
        u32 place[2];
#pragma unroll
        for (u32 j = 0; j < 2; ++j) place[j] = pair[j] / p.parts * p.y_stride + pair[j] % p.parts * p.n;
        // 16 pairs at a time.
#pragma unroll
        for (u32 part = 0; part < 4; ++part) {
            float ups[8];
            if (GATED && up) {
                meet(3 + twin, 256);
#pragma unroll
                for (u32 j = 0; j < 8; ++j) exchange[j * 128] = acc[part * 8 + j];
                meet_later(1 + twin, 256);
                continue;
            }
            if (GATED) {
                meet_later(3 + twin, 256);
                meet(1 + twin, 256);
#pragma unroll
                for (u32 j = 0; j < 8; ++j) ups[j] = exchange[j * 128];
            }
#pragma unroll
            for (u32 j = 0; j < 4; ++j) {
                const u32 r = part * 16 + j / 2 * 8 + t * 2 + j % 2;
                float* y = p.y + __shfl_sync(0xffffffffu, place[part / 2], r % 32);
                if (r >= have) continue;
#pragma unroll
                for (u32 o = 0; o < 2; ++o) {
                    const u32 column = first + o * 8, at = j / 2 * 4 + o * 2 + j % 2;
                    if (column >= p.n) continue;
                    float v = acc[part * 8 + at] + (bias ? bias[column] : 0.0f);
                    if (GATED) v = silu(v) * (ups[at] + (up_bias ? up_bias[column] : 0.0f));
                    y[column] = v;
                }
            }
        }
    }
}

#define ENTRIES(Q)                                                                                                   \
    KERNEL __launch_bounds__(THREADS, 1) grouped_##Q(const __grid_constant__ Grouped p) { grouped<Q##_t, false>(p); } \
    KERNEL __launch_bounds__(THREADS, 1) gated_##Q(const __grid_constant__ Grouped p) { grouped<Q##_t, true>(p); }
ENTRIES(q4_k)
ENTRIES(q5_k)
