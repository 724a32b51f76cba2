// op: attention, many rows, heads of 64, 128 or 256, f16 caches. o = softmax(scale·q·kᵀ)·v
// as in the parent's `flash.cu`, q and the weights of the softmax rounded to f16, sums
// in f32.
// Launch: a block for each multiprocessor, or as many as there is work: pieces of 128 rows
// of a head, those of the last rows first, which see most. A warp asks the copy engine for
// tiles of keys and values, box by box of a page, two tiles ahead, through the ends of
// pieces. Two groups of four warps take 64 rows each: scores of a tile are multiplied
// while the values of the one before are; what becomes weights stays in registers. With
// heads of up to 128 the groups take turns, so that one's softmax is the other's products.
// Rows of several spans are done span by span. q is brought to between 1 and 2 by a power
// of two a row, for which f16's exponents may have no room.
// Tolerance 2e-3: half a unit of an f16 in each weight is at most 2^-11 of the largest
// value, some four times the mean. After Shah et al. 2024 (FlashAttention-3).
#include "../../cuda_sm86/attention/flash.cuh"
#include "../common/wgmma.cuh"

#define METHOD __device__ __forceinline__
static_assert(sizeof(Args) == 136, "what the host puts behind it");

struct Attend {
    TensorMap cells;
    // 132 bytes, and a word of nothing behind them.
    Args p;
    // Query heads, and whether rows of q and o start at 8-byte pieces.
    u32 heads, wide;
};

enum { GROUPS = 2, GROUP_ROWS = 64, ROWS = GROUPS * GROUP_ROWS, STAGES = 2 };

// Pieces of work of this block: 128 rows of a head. From round to round blocks count from
// either end, so that each gets large and small ones.
struct Pieces {
    u32 round;
    METHOD bool next(const Attend& a, u32& r0, u32& r1, u32& head) {
        const u32 rows = real_rows(a.p.count), all = a.heads * ((rows + ROWS - 1) / ROWS);
        const u32 i = round * gridDim.x + (round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
        ++round;
        // In a last round cut short, blocks from one end have none.
        if (i >= all) return false;
        head = i % a.heads;
        r0 = (all - 1 - i) / a.heads * ROWS;
        r1 = min(rows, r0 + ROWS);
        return true;
    }
};

template <int D>
struct Cut {
    enum {
        // Keys, or values, of a tile; 64 of their elements lie together for all tokens.
        TOKENS = D == 256 ? 64 : 128,
        PART = TOKENS * 128,
        BYTES = TOKENS * D * 2,
        // Queries of a group, 64 elements together for all rows.
        QUERIES = GROUP_ROWS * D * 2,
        QUERIES_PART = GROUP_ROWS * 128,
        // Registers of whoever fetches and of whoever multiplies: 384 threads start with
        // 168 each, and only what some give up others get.
        FEWER = D == 256 ? 24 : 40,
        MORE = D == 256 ? 240 : 232,
    };
};

static_assert(Cut<128>::FEWER + 2 * Cut<128>::MORE <= 3 * 168 && Cut<256>::FEWER + 2 * Cut<256>::MORE <= 3 * 168, "");

// What is in shared memory.
template <int D>
struct Places {
    u32 queries, keys, values, barriers;
    DEVICE Places<D> of(u32 base) {
        typedef Cut<D> C;
        Places<D> at;
        at.queries = base;
        at.keys = base + GROUPS * C::QUERIES;
        at.values = at.keys + STAGES * C::BYTES;
        at.barriers = at.values + STAGES * C::BYTES;
        return at;
    }
    // Tile number n, and its barriers.
    METHOD u32 keys_of(u32 n) const { return keys + n % STAGES * Cut<D>::BYTES; }
    METHOD u32 values_of(u32 n) const { return values + n % STAGES * Cut<D>::BYTES; }
    METHOD u32 keys_full(u32 n) const { return barriers + n % STAGES * 8; }
    METHOD u32 values_full(u32 n) const { return keys_full(n) + STAGES * 8; }
    METHOD u32 keys_empty(u32 n) const { return keys_full(n) + 2 * STAGES * 8; }
    METHOD u32 values_empty(u32 n) const { return keys_full(n) + 3 * STAGES * 8; }
};
// Which time a stage is filled by tile n.
DEVICE u32 parity_of(u32 n) { return n / STAGES & 1; }

// Rows [s, e) of a span in a block: the positions that any of them sees.
struct Span {
    const u32* table;
    u32 s, e, first, last;
};
DEVICE Span span_of(const Args& p, u32 s, u32 r1) {
    const u32 span = p.row_span[s], e = min(r1, p.span_start[span + 1]);
    return {p.tables + span * p.c.blocks, s, e, least(p, p.positions[s]), p.positions[e - 1]};
}

// A piece's keys and values, from tile number n on.
template <int D>
DEVICE void fetch(const Attend& a, const Places<D>& at, u32 r0, u32 r1, u32 head, u32& n) {
    const u32 TOKENS = Cut<D>::TOKENS;
    const Args& p = a.p;
    const u32 lane = threadIdx.x, box = min(p.c.block, TOKENS), kv_head = head / p.group;
    for (u32 s = r0; s < r1;) {
        const Span span = span_of(p, s, r1);
        for (u32 tile = span.first / TOKENS * TOKENS; tile <= span.last; tile += TOKENS, ++n) {
            // Boxes that hold something which is seen.
            const u32 begin = max(span.first, tile) / box * box;
            const u32 boxes = (min(span.last, tile + TOKENS - 1) - begin) / box + 1, bytes = boxes * box * D * 2;
            const u32 token = begin + lane * box;
            const bool mine = lane < boxes;
            const u32 page = mine ? span.table[token >> p.shift] : 0;
#pragma unroll
            for (u32 kv = 0; kv < 2; ++kv) {
                const u32 full = kv ? at.values_full(n) : at.keys_full(n);
                const u32 to = (kv ? at.values_of(n) : at.keys_of(n)) + (token - tile) * 128;
                if (lane == 0) {
                    barrier_wait(kv ? at.values_empty(n) : at.keys_empty(n), parity_of(n) ^ 1);
                    barrier_expect(full, bytes);
                }
                __syncwarp();
                if (mine) {
#pragma unroll
                    for (u32 c = 0; c < D / 64; ++c) {
                        copy_cells(to + c * Cut<D>::PART, &a.cells, c * 64, token & (p.c.block - 1), kv_head, kv, page, full);
                    }
                }
            }
        }
        s = span.e;
    }
}

// A group's rows of q over powers of two, as products read them.
template <int D>
DEVICE void put_queries(float (&factor)[2], const Attend& a, u32 own, u32 head, u32 to) {
    const Args& p = a.p;
    const u32 lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, warp = threadIdx.x >> 5 & 3;
    const u32 rows = real_rows(p.count);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const u32 row = own + g + 8 * i;
        const float* q = p.q + (u64)min(row, rows - 1) * p.q_stride + head * D + 2 * t;
        float2 v[D / 8];
        float top = 0.0f;
#pragma unroll
        for (u32 j = 0; j < D / 8; ++j) v[j] = a.wide ? *(const float2*)(q + j * 8) : make_float2(q[j * 8], q[j * 8 + 1]);
#pragma unroll
        for (u32 j = 0; j < D / 8; ++j) top = fmaxf(top, fmaxf(fabsf(v[j].x), fabsf(v[j].y)));
        top = row_scale(top);
        const float less = 1.0f / top;
        factor[i] = top * p.scale * 1.44269504f;
#pragma unroll
        for (u32 j = 0; j < D / 8; ++j) {
            const u32 r = warp * 16 + g + 8 * i;
            const u32 at = to + j / 8 * Cut<D>::QUERIES_PART + r * 128 + ((j % 8 ^ (r & 7)) << 4) + t * 4;
            asm volatile("st.shared.u32 [%0], %1;" ::"r"(at), "r"(to_f16x2(v[j].x * less, v[j].y * less)) : "memory");
        }
    }
}

// Values of tokens that nobody sees, which may be anything, become zeros.
template <int D>
DEVICE void clear(u32 values, u32 begin, u32 end, u32 tile) {
    typedef Cut<D> C;
    const u32 lane = threadIdx.x & 127;
    const u32 from = begin > tile ? begin - tile : 0, to = end - tile;
    for (u32 i = lane; i < C::TOKENS * D / 8; i += 128) {
        const u32 token = i / 8 % C::TOKENS;
        if (token >= from && token <= to) continue;
        asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(values + i * 16), "r"(0) : "memory");
    }
    fence_for_copies();
}

// Scores of tokens from `tile` on to weights, and what is left of sums and, in `keep`, of o.
template <int TOKENS, bool MASKED>
DEVICE void soften(float (&score)[TOKENS / 2], float (&keep)[2], float (&top)[2], float (&sum)[2], const float (&factor)[2],
                   const int (&from)[2], const int (&to)[2], u32 tile) {
    const u32 t = threadIdx.x & 3;
    float best[2] = {top[0], top[1]}, offset[2];
#pragma unroll
    for (u32 j = 0; j < TOKENS / 2; ++j) {
        const int i = j / 2 % 2, pos = tile + j / 4 * 8 + t * 2 + j % 2;
        if (MASKED && (pos < from[i] || pos > to[i])) score[j] = __uint_as_float(0xff800000u);
        best[i] = fmaxf(best[i], score[j]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        best[i] = quad_max(best[i]);
        keep[i] = power_of_two((top[i] - best[i]) * factor[i]);
        top[i] = best[i];
        // While a row has seen nothing there is nothing to take off, and no product to overflow.
        offset[i] = best[i] > -1e30f ? -best[i] * factor[i] : 0.0f;
        sum[i] *= keep[i];
    }
#pragma unroll
    for (u32 j = 0; j < TOKENS / 4; ++j) {
        const int i = j % 2;
        const float x = power_of_two(fmaf(score[2 * j], factor[i], offset[i]));
        const float y = power_of_two(fmaf(score[2 * j + 1], factor[i], offset[i]));
        sum[i] += x + y;
        score[2 * j] = x;
        score[2 * j + 1] = y;
    }
}

// What four warps have of their rows.
template <int D, bool TURNS>
struct Group {
    typedef Cut<D> C;
    enum { TOKENS = C::TOKENS };
    const Places<D>& at;
    const u32 group, queries;
    // Tiles that are done, of all pieces, and the first token of the next.
    u32 n, tile;
    float o[D / 2], score[TOKENS / 2];
    u32 weight[TOKENS / 4];
    // Of the thread's two rows.
    float factor[2], top[2], sum[2], keep[2];
    int from[2], to[2];

    METHOD Group(const Places<D>& at, u32 group)
        : at(at), group(group), queries(at.queries + group * C::QUERIES), n(0) {}

    METHOD void start() {
#pragma unroll
        for (u32 j = 0; j < D / 2; ++j) o[j] = 0.0f;
        top[0] = top[1] = -1e30f;
        sum[0] = sum[1] = 0.0f;
    }

    METHOD void turn() {
        if (TURNS) meet(3 + group, 256);
    }
    METHOD void turn_over() {
        if (TURNS) meet_later(3 + (group ^ 1), 256);
    }
    METHOD void release(u32 barrier) {
        if ((threadIdx.x & 31) == 0) barrier_arrive(barrier);
    }
    // Only once the products that take them are done: the assembler would wait for those
    // at their start.
    METHOD void settle() {
#pragma unroll
        for (u32 j = 0; j < TOKENS / 4; ++j) weight[j] = to_f16x2(score[2 * j], score[2 * j + 1]);
#pragma unroll
        for (u32 j = 0; j < D / 2; ++j) o[j] *= keep[j / 2 % 2];
    }
    METHOD void multiply_keys(u32 n) {
        const u64 q = rows_of_128(queries), k = rows_of_128(at.keys_of(n));
#pragma unroll
        for (u32 d = 0; d < D / 16; ++d) {
            wgmma(score, q + d / 4 * (C::QUERIES_PART >> 4) + d % 4 * 2, k + d / 4 * (C::PART >> 4) + d % 4 * 2, d, f16_t());
        }
        wgmma_commit();
    }
    METHOD void multiply_values(u32 n) {
        const u64 v = columns_of_128(at.values_of(n), C::PART);
#pragma unroll
        for (u32 j = 0; j < TOKENS / 16; ++j) {
            wgmma<1>(o, weight[4 * j], weight[4 * j + 1], weight[4 * j + 2], weight[4 * j + 3], v + j * (2048 >> 4), 1);
        }
        wgmma_commit();
    }
    // Waits for the values of tile n, the one before `tile`.
    METHOD void await_values(const Span& span) {
        barrier_wait(at.values_full(n), parity_of(n));
        const u32 begin = tile - TOKENS;
        if (begin < span.first || tile > span.last + 1) {
            clear<D>(at.values_of(n), span.first, span.last, begin);
            meet(1 + group, 128);
        }
    }
    // Tiles that none of the rows sees.
    METHOD void pass(u32 end) {
        for (; tile < end; tile += TOKENS) {
            turn();
            barrier_wait(at.keys_full(n), parity_of(n));
            barrier_wait(at.values_full(n), parity_of(n));
            release(at.keys_empty(n));
            release(at.values_empty(n));
            turn_over();
            ++n;
        }
    }
    METHOD void first() {
        turn();
        barrier_wait(at.keys_full(n), parity_of(n));
        wgmma_fence();
        multiply_keys(n);
        turn_over();
        wgmma_wait<0>();
        release(at.keys_empty(n));
        soften<TOKENS, true>(score, keep, top, sum, factor, from, to, tile);
        settle();
        tile += TOKENS;
    }
    // Scores of the next tiles, up to token `end`, beside the values of those before.
    template <bool MASKED>
    METHOD void advance(const Span& span, int end) {
        for (; (int)tile < end; tile += TOKENS) {
            turn();
            await_values(span);
            barrier_wait(at.keys_full(n + 1), parity_of(n + 1));
            wgmma_fence();
            multiply_keys(n + 1);
            multiply_values(n);
            turn_over();
            wgmma_wait<1>();
            release(at.keys_empty(n + 1));
            soften<TOKENS, MASKED>(score, keep, top, sum, factor, from, to, tile);
            wgmma_wait<0>();
            release(at.values_empty(n));
            settle();
            ++n;
        }
    }
    METHOD void last(const Span& span) {
        await_values(span);
        wgmma_fence();
        multiply_values(n);
        wgmma_wait<0>();
        release(at.values_empty(n));
        ++n;
    }
};

// The group's part of a piece.
template <int D, bool TURNS>
DEVICE void attend(const Attend& a, Group<D, TURNS>& mine, u32 r0, u32 r1, u32 head) {
    const u32 TOKENS = Cut<D>::TOKENS;
    const Args& p = a.p;
    const u32 lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const u32 rows0 = r0 + mine.group * GROUP_ROWS, own = rows0 + (threadIdx.x >> 5 & 3) * 16;
    // All have read the queries of the piece before.
    meet(1 + mine.group, 128);
    put_queries<D>(mine.factor, a, own, head, mine.queries);
    mine.start();
    fence_for_copies();
    meet(1 + mine.group, 128);
    for (u32 s = r0; s < r1;) {
        const Span span = span_of(p, s, r1);
        const u32 end = span.last + 1, b = max(s, rows0), e = min(span.e, rows0 + GROUP_ROWS);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const u32 row = own + g + 8 * i;
            const bool in = row >= s && row < span.e;
            const u32 position = in ? p.positions[row] : 0;
            mine.from[i] = least(p, position);
            mine.to[i] = in ? (int)position : -1;
        }
        mine.tile = span.first / TOKENS * TOKENS;
        if (b < e) {
            // What some of the group's rows see, and what all.
            const u32 from = least(p, p.positions[b]), to = p.positions[e - 1];
            const bool whole = b == rows0 && e == rows0 + GROUP_ROWS;
            const int all_from = whole ? least(p, to) : to + 1, all_to = whole ? (int)p.positions[b] : 0;
            mine.pass(from / TOKENS * TOKENS);
            mine.first();
            mine.template advance<true>(span, min(all_from, (int)to + 1));
            mine.template advance<false>(span, all_to + 2 - (int)TOKENS);
            mine.template advance<true>(span, to + 1);
            mine.last(span);
        }
        mine.pass(end);
        s = span.e;
    }
#pragma unroll
    for (u32 i = 0; i < 2; ++i) {
        const u32 row = own + g + 8 * i;
        const float less = 1.0f / quad_sum(mine.sum[i]);
        if (row >= r1) continue;
        float* to = p.o + (u64)row * p.o_stride + head * D + 2 * t;
#pragma unroll
        for (u32 j = 0; j < D / 8; ++j) {
            const float x = mine.o[4 * j + 2 * i] * less, y = mine.o[4 * j + 2 * i + 1] * less;
            if (a.wide) {
                *(float2*)(to + j * 8) = make_float2(x, y);
            } else {
                to[j * 8] = x;
                to[j * 8 + 1] = y;
            }
        }
    }
}

template <int D, bool TURNS>
DEVICE void flash(const Attend& a) {
    extern __shared__ __align__(1024) u8 shared_bytes[];
    const Places<D> at = Places<D>::of(shared_address(shared_bytes) + 1023 & ~1023u);
    start_next();
    if (threadIdx.x == 0) {
        for (u32 n = 0; n < STAGES; ++n) {
            barrier_init(at.keys_full(n), 1);
            barrier_init(at.values_full(n), 1);
            // Each warp that multiplies.
            barrier_init(at.keys_empty(n), GROUPS * 4);
            barrier_init(at.values_empty(n), GROUPS * 4);
        }
        barriers_ready();
    }
    __syncthreads();
    wait_for_previous();
    Pieces pieces = {0};
    u32 r0, r1, head;
    if (threadIdx.x < 128) {
        fewer_registers<Cut<D>::FEWER>();
        if (threadIdx.x < 32) {
            fence_for_copies();
            u32 n = 0;
            while (pieces.next(a, r0, r1, head)) fetch<D>(a, at, r0, r1, head, n);
        }
    } else {
        more_registers<Cut<D>::MORE>();
        Group<D, TURNS> mine(at, (threadIdx.x >> 7) - 1);
        if (TURNS && mine.group == 1) mine.turn_over();
        while (pieces.next(a, r0, r1, head)) attend<D, TURNS>(a, mine, r0, r1, head);
    }
}

KERNEL __launch_bounds__(384, 1) flash_64(const __grid_constant__ Attend a) { flash<64, true>(a); }
KERNEL __launch_bounds__(384, 1) flash_128(const __grid_constant__ Attend a) { flash<128, true>(a); }
KERNEL __launch_bounds__(384, 1) flash_256(const __grid_constant__ Attend a) { flash<256, false>(a); }
