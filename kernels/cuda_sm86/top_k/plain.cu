// op: top_k. The k ≤ 64 largest logits in descending order, ties to the lowest id, as ids
// and bits of f32; NaN is larger than any number, both zeros are +0, and places behind the
// last logit hold 0xffffffff and -inf.
// logits f32 [R, V], rows strided; top u32 [R, k, 2].
// Launch: a block for each (part, row) leaves the k largest of its part, in registers,
// as keys; then the same of those, until one block has a row's. Keys are pairs that
// compare as the order does: bits that grow with the logit, the complement of the id. The
// k-th largest is found bit by bit. Exact.
#include "../common/reduce.cuh"

struct Args {
    const float* x;
    // What the launch ahead has left: [R, elements] keys.
    const uint2* from;
    // [R, parts, k] keys, or the row's pairs where there is one part.
    uint2* to;
    u32* top;
    const u32* count;
    u32 len, x_stride, k, top_stride;
};

enum { THREADS = 512, PER = 16, MOST_K = 64 };

// Grows with the logit; zero is none.
DEVICE u32 rank_of(u32 bits) {
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0xffffffffu;
    if (bits == 0x80000000u) bits = 0;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
DEVICE u32 bits_of(u32 rank) { return rank >> 31 ? rank ^ 0x80000000u : ~rank; }

// Sum over the block; two sets of parts take turns.
DEVICE u32 count_all(u32 n, u32& turn) {
    __shared__ u32 parts[2][THREADS / 32];
    n = __reduce_add_sync(0xffffffffu, n);
    turn ^= 1;
    if ((threadIdx.x & 31) == 0) parts[turn][threadIdx.x >> 5] = n;
    __syncthreads();
    n = 0;
#pragma unroll
    for (u32 i = 0; i < THREADS / 32; ++i) n += parts[turn][i];
    return n;
}

// How many of all threads' keys are so.
#define COUNT(WHERE)                                     \
    [&] {                                                \
        u32 n = 0;                                       \
        _Pragma("unroll") for (u32 j = 0; j < PER; ++j) n += WHERE; \
        return count_all(n, turn);                       \
    }()

template <bool LOGITS>
DEVICE void top_k(const Args& p) {
    __shared__ uint2 chosen[MOST_K];
    __shared__ u32 taken;
    start_next();
    const u32 rows = real_rows(p.count), r = blockIdx.y;
    wait_for_previous();
    if (r >= rows) return;
    if (threadIdx.x == 0) taken = 0;
    u32 rank[PER], id[PER];
#pragma unroll
    for (u32 j = 0; j < PER; ++j) {
        const u32 i = blockIdx.x * (THREADS * PER) + j * THREADS + threadIdx.x;
        uint2 key = make_uint2(0, 0);
        if (i < p.len) {
            key = LOGITS ? make_uint2(rank_of(__float_as_uint(p.x[(u64)r * p.x_stride + i])), ~i)
                         : p.from[(u64)r * p.len + i];
        }
        rank[j] = key.x;
        id[j] = key.y;
    }
    u32 turn = 0;
    // The k-th largest rank, as far as it takes to have k, and how many reach it.
    u32 least = 0, reach = 0xffffffffu;
    for (u32 bit = 0x80000000u; bit && reach != p.k; bit >>= 1) {
        const u32 want = least | bit, n = COUNT(rank[j] >= want);
        if (n >= p.k) {
            least = want;
            reach = n;
        }
    }
    // Of equals those with the largest complements.
    u32 last = 0;
    least = max(least, 1u);
    if (reach != 0xffffffffu && reach != p.k) {
        const u32 above = COUNT(rank[j] > least);
        for (u32 bit = 0x80000000u; bit && reach != p.k; bit >>= 1) {
            const u32 want = last | bit;
            const u32 n = above + COUNT(rank[j] == least && id[j] >= want);
            if (n >= p.k) {
                last = want;
                reach = n;
            }
        }
    }
    __syncthreads();
#pragma unroll
    for (u32 j = 0; j < PER; ++j) {
        if (rank[j] > least || (rank[j] == least && id[j] >= last)) {
            chosen[atomicAdd(&taken, 1u)] = make_uint2(rank[j], id[j]);
        }
    }
    __syncthreads();
    const u32 n = taken, j = threadIdx.x;
    if (j >= p.k) return;
    const uint2 own = j < n ? chosen[j] : make_uint2(0, 0);
    if (gridDim.x > 1) {
        p.to[((u64)r * gridDim.x + blockIdx.x) * p.k + j] = own;
        return;
    }
    u32 place = j;
    if (j < n) {
        place = 0;
        for (u32 i = 0; i < n; ++i) {
            place += chosen[i].x > own.x || (chosen[i].x == own.x && chosen[i].y > own.y);
        }
    }
    u32* top = p.top + (u64)r * p.top_stride + 2 * place;
    top[0] = j < n ? ~own.y : 0xffffffffu;
    top[1] = j < n ? bits_of(own.x) : 0xff800000u;
}

KERNEL __launch_bounds__(THREADS) top_of_logits(const __grid_constant__ Args p) { top_k<true>(p); }
KERNEL __launch_bounds__(THREADS) top_of_keys(const __grid_constant__ Args p) { top_k<false>(p); }
