// op: gated_delta, 32 rows at a time, on tensor cores; the rule as in `recurrent.cu`. With
// Γᵢ = Πⱼ≤ᵢ gⱼ inside a chunk, S₀ the state before it and δᵢ what row i writes (Sᵢ =
// gᵢ·Sᵢ₋₁ + kᵢ·δᵢ):
//   L = βᵢ·Γᵢ/Γⱼ·(kᵢ·kⱼ) below the diagonal, P = Γᵢ/Γⱼ·(qᵢ·kⱼ) up to it
//   δ = (I + L)⁻¹·X, Xᵢ = βᵢ·(vᵢ − Γᵢ·kᵢᵀS₀)
//   oᵢ = Γᵢ·qᵢᵀS₀ + (P·δ)ᵢ,  S = Γ·S₀ + Σⱼ Γ/Γⱼ·kⱼ·δⱼ
// `chunk_inner`: q and k of length one, (I + L)⁻¹ and P of all chunks at once. Launch: 8
// warps for each chunk (x) of a key head (y); a chunk ends with its span.
// `chunk_outer`: the rest, chunk by chunk. Launch: 8 warps for each (32 columns of dv,
// value head, span); the state in registers, and in shared memory for the products.
// Factors of products are sums of two f16 numbers (`Split`), which leave 2⁻²² of a number
// out, and the product of the second ones is left out too: errors as of f32 at three
// products instead of one. f16 has a small range: q and k are of length `LENGTH`, the
// inverse and P, whose numbers are no larger than 1, are kept `SQUARED` times, and tiles of
// S, X and δ times a power of two of their own (`Scale`). So what is below 2⁻³² of the
// largest of its tile is lost, which an infinite one makes of all. (I + L)⁻¹ is found in
// f32; ln Γ is in f64, so that ratios Γᵢ/Γⱼ are good, which are no larger than 1: decay may
// not be positive. Shapes as in `recurrent.cu`, dk ≤ 128. Tolerance 1e-4. The chunked form:
// Yang et al. 2024, derived anew.
#include "../common/mma.cuh"
#include "../common/reduce.cuh"

#define LENGTH 64.0f
#define SQUARED (LENGTH * LENGTH)

enum { CHUNK = 32, WIDE = 128, COLUMNS = 32, PASS = 2 };
// Rows of shared memory, so that eight of them lie in different banks.
enum { LINE = WIDE + 8, SQUARE = CHUNK + 8 };

// Of a row β, Γ, what of it is left at the chunk's end, ln g.
struct Factors {
    float beta, gamma, tail, log;
};

struct Args {
    const float* q;
    const float* k;
    const float* v;
    const float* a;
    const float* b;
    const float* decay;
    const float* dt_bias;
    float* o;
    // Of each chunk and value head, [32].
    Factors* factors;
    // Of each chunk and key head q, then k, split: [2, 32, 128] each.
    u16* keys;
    // Of each chunk and value head the inverse, then P, split: [2, 32, 32] each.
    u16* squares;
    float* state;
    // Of all kernels with states; not needed here.
    const u32* row_span;
    const u32* span_start;
    const u32* state_in;
    const u32* state_out;
    const u32* spans;
    u32 key_heads, heads, dk, dv, log_decay, tiled, slots, slot_stride;
    u32 q_stride, k_stride, v_stride, a_stride, b_stride, o_stride;
    // Whether rows of heads of q and k start at 16-byte pieces.
    u32 aligned;
};

DEVICE u32 chunks_of(const Args& p, u32 span) { return (p.span_start[span + 1] - p.span_start[span] + CHUNK - 1) / CHUNK; }
DEVICE float part(const float4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// Two numbers, each as an f16 number and what is left of it as another.
struct Split {
    u32 high, low;
};
DEVICE Split split(float x, float y) {
    const u32 high = to_f16x2(x, y);
    return {high, rest_f16x2(x, y, high)};
}
// Number `at` of a plane of high ones and of the plane of low ones behind it.
DEVICE float whole(const u16* at, u32 plane) { return from_f16(at[0]) + from_f16(at[plane]); }

// What brings a number of that size to 2⁷ to 2⁸, and back; from 2⁻¹⁰⁷ to 2¹¹⁴.
struct Scale {
    float to, from;
};
DEVICE Scale scale_of(float most) {
    const u32 exponent = min(max(__float_as_uint(most) >> 23, 20u), 240u);
    return {__uint_as_float((261 - exponent) << 23), __uint_as_float((exponent - 7) << 23)};
}

// Four 8×8 matrices of both planes of a split matrix.
struct Tile {
    u32 high[4], low[4];
};
template <u32 ROWS, u32 STRIDE>
DEVICE Tile load(const u16 (&m)[2][ROWS][STRIDE], u32 row, u32 column) {
    Tile tile;
    const u32 at = shared_address(&m[0][row][column]);
    ldmatrix4(tile.high, at);
    ldmatrix4(tile.low, at + ROWS * STRIDE * 2);
    return tile;
}
template <u32 ROWS, u32 STRIDE>
DEVICE Tile load_trans(const u16 (&m)[2][ROWS][STRIDE], u32 row, u32 column) {
    Tile tile;
    const u32 at = shared_address(&m[0][row][column]);
    ldmatrix4_trans(tile.high, at);
    ldmatrix4_trans(tile.low, at + ROWS * STRIDE * 2);
    return tile;
}

// The largest magnitude of a warp's numbers; bits are in the order of what is not negative.
template <u32 N>
DEVICE float most_of(const float (&x)[N][4]) {
    float most = 0.0f;
#pragma unroll
    for (u32 i = 0; i < N * 4; ++i) most = fmaxf(most, fabsf(x[i / 4][i % 4]));
    return __uint_as_float(__reduce_max_sync(0xffffffffu, __float_as_uint(most)));
}
template <u32 N>
DEVICE float most_of(const float (&x)[N]) {
    float most = x[0];
#pragma unroll
    for (u32 i = 1; i < N; ++i) most = fmaxf(most, x[i]);
    return most;
}

// 16×8 sums; those of second parts apart, which shortens the chains.
struct Sums {
    float high[4], left[4], right[4];
    __device__ __forceinline__ float at(u32 i) const { return high[i] + (left[i] + right[i]); }
};
// sums += a·b, 16×16 by the 16×8 that the matrices 2i and 2i + 1 of b are.
DEVICE void multiply(Sums& sums, const Tile& a, const Tile& b, u32 i) {
    mma(sums.high, a.high, b.high[2 * i], b.high[2 * i + 1], f16_t());
    mma(sums.left, a.low, b.high[2 * i], b.high[2 * i + 1], f16_t());
    mma(sums.right, a.high, b.low[2 * i], b.low[2 * i + 1], f16_t());
}

// f(tile, number, row, column) for what a lane has of N tiles side by side, rows and columns
// counted from its first.
template <u32 N, class F>
DEVICE void each(const F& f) {
#pragma unroll
    for (u32 e = 0; e < N; ++e) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) f(e, i, i / 2 * 8, e * 8 + i % 2);
    }
}

// to += from·sums
DEVICE void add_scaled(float (&to)[4], const Sums& sums, float from) {
#pragma unroll
    for (u32 i = 0; i < 4; ++i) to[i] = fmaf(sums.at(i), from, to[i]);
}

// Tiles of 16×8 side by side, the lane's first number at that row and column.
template <u32 N, u32 ROWS, u32 STRIDE>
DEVICE void store_tile(u16 (&m)[2][ROWS][STRIDE], u32 row, u32 column, const float (&x)[N][4], float scale) {
#pragma unroll
    for (u32 e = 0; e < N; ++e) {
#pragma unroll
        for (u32 i = 0; i < 2; ++i) {
            const Split v = split(x[e][i * 2] * scale, x[e][i * 2 + 1] * scale);
            *(u32*)&m[0][row + i * 8][column + e * 8] = v.high;
            *(u32*)&m[1][row + i * 8][column + e * 8] = v.low;
        }
    }
}

// Where the row is that a lane names to `ldmatrix4`. `down_first`: of a stored [M][K], of b
// stored [K][N] (transposed). `across_first`: of b stored [N][K], of a stored [K][M]
// (transposed).
struct Lanes {
    u32 row, column;
};
DEVICE Lanes down_first(u32 lane) { return {lane & 15, lane >> 4 << 3}; }
DEVICE Lanes across_first(u32 lane) { return {(lane & 7) + (lane >> 4 << 3), (lane >> 3 & 1) << 3}; }

// A row's numbers 4·lane to 4·lane + 3, zeros behind dk.
DEVICE float4 load4(const Args& p, const float* x, u32 lane) {
    if (p.aligned) return lane * 4 < p.dk ? *(const float4*)(x + lane * 4) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float v[4];
#pragma unroll
    for (u32 i = 0; i < 4; ++i) v[i] = lane * 4 + i < p.dk ? x[lane * 4 + i] : 0.0f;
    return make_float4(v[0], v[1], v[2], v[3]);
}

// (I + L)⁻¹, a column in each lane, row by row.
DEVICE void invert(const float (&l)[CHUNK][CHUNK + 4], u16* to) {
    const u32 lane = threadIdx.x & 31;
    float x[CHUNK];
#pragma unroll
    for (u32 i = 0; i < CHUNK; ++i) {
        float sum[2] = {i == lane ? 1.0f : 0.0f, 0.0f};
#pragma unroll
        for (u32 j = 0; j < i; j += 4) {
            const float4 v = *(const float4*)&l[i][j];
#pragma unroll
            for (u32 e = 0; e < 4; ++e) {
                if (j + e < i) sum[e % 2] = fmaf(-part(v, e), x[j + e], sum[e % 2]);
            }
        }
        x[i] = sum[0] + sum[1];
        const float y = x[i] * SQUARED;
        const u16 high = to_f16(y);
        to[i * CHUNK + lane] = high;
        to[(CHUNK + i) * CHUNK + lane] = to_f16(y - from_f16(high));
    }
}

KERNEL __launch_bounds__(256) chunk_inner(const __grid_constant__ Args p) {
    __shared__ __align__(16) u16 q[2][CHUNK][LINE], k[2][CHUNK][LINE];
    __shared__ __align__(16) float l[PASS][CHUNK][CHUNK + 4];
    __shared__ double logs[PASS][CHUNK];
    __shared__ float betas[PASS][CHUNK];
    start_next();
    wait_for_previous();
    const u32 key_head = blockIdx.y, spans = *p.spans;
    u32 span = 0, chunk = blockIdx.x;
    while (span < spans && chunk >= chunks_of(p, span)) chunk -= chunks_of(p, span++);
    if (span >= spans) return;
    const u32 t0 = p.span_start[span] + chunk * CHUNK, n = min(p.span_start[span + 1] - t0, (u32)CHUNK);
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    u16* keys = p.keys + ((u64)blockIdx.x * p.key_heads + key_head) * 4 * CHUNK * WIDE;
#pragma unroll
    for (u32 j = 0; j < 4; ++j) {
        const u32 i = warp * 4 + j;
#pragma unroll
        for (u32 m = 0; m < 2; ++m) {
            const float* from = (m ? p.k + (u64)(t0 + i) * p.k_stride : p.q + (u64)(t0 + i) * p.q_stride) + key_head * p.dk;
            const float4 x = i < n ? load4(p, from, lane) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            const float f = LENGTH / sqrtf(warp_sum(x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w) + 1e-6f);
            const Split a = split(x.x * f, x.y * f), b = split(x.z * f, x.w * f);
            u16(*own)[CHUNK][LINE] = m ? k : q;
            u16* to = keys + (m * 2 * CHUNK + i) * WIDE + lane * 4;
            *(uint2*)&own[0][i][lane * 4] = make_uint2(a.high, b.high);
            *(uint2*)&own[1][i][lane * 4] = make_uint2(a.low, b.low);
            *(uint2*)to = make_uint2(a.high, b.high);
            *(uint2*)(to + CHUNK * WIDE) = make_uint2(a.low, b.low);
        }
    }
    __syncthreads();
    // 16 rows of k, or of q, by 16 of k.
    const bool keyed = warp < 4;
    const u32 i0 = (warp >> 1 & 1) * 16, j0 = (warp & 1) * 16;
    const Lanes down = down_first(lane), across = across_first(lane);
    Sums sums[2] = {};
#pragma unroll
    for (u32 d = 0; d < WIDE; d += 16) {
        const Tile a = keyed ? load(k, i0 + down.row, d + down.column) : load(q, i0 + down.row, d + down.column);
        const Tile b = load(k, j0 + across.row, d + across.column);
#pragma unroll
        for (u32 e = 0; e < 2; ++e) multiply(sums[e], a, b, e);
    }
    // Then for the value heads of the key, a few at a time.
    const u32 group = p.heads / p.key_heads;
    auto head = [&](u32 i) { return p.tiled ? key_head + i * p.key_heads : key_head * group + i; };
    auto square = [&](u32 h, u32 which) { return p.squares + (((u64)blockIdx.x * p.heads + h) * 2 + which) * 2 * CHUNK * CHUNK; };
    for (u32 first = 0; first < group; first += PASS) {
        const u32 some = min(group - first, (u32)PASS);
        if (warp < some) {
            const u32 h = head(first + warp);
            float log = 0.0f, beta = 0.0f;
            if (lane < n) {
                const float rate = p.log_decay ? -expf(p.decay[h]) : p.decay[h];
                log = rate * softplus(p.a[(u64)(t0 + lane) * p.a_stride + h] + p.dt_bias[h]);
                beta = sigmoid(p.b[(u64)(t0 + lane) * p.b_stride + h]);
            }
            double upto = log;
#pragma unroll
            for (u32 d = 1; d < 32; d <<= 1) {
                const double other = __shfl_up_sync(0xffffffffu, upto, d);
                if (lane >= d) upto += other;
            }
            const double all = __shfl_sync(0xffffffffu, upto, 31);
            logs[warp][lane] = upto;
            betas[warp][lane] = beta;
            p.factors[((u64)blockIdx.x * p.heads + h) * CHUNK + lane] = {beta, expf((float)upto), expf((float)(all - upto)), log};
        }
        __syncthreads();
        for (u32 m = 0; m < some; ++m) {
            u16* to = square(head(first + m), 1);
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                const u32 i = i0 + g + half * 8;
#pragma unroll
                for (u32 e = 0; e < 2; ++e) {
                    const u32 j = j0 + e * 8 + t * 2;
                    float v[2];
#pragma unroll
                    for (u32 b = 0; b < 2; ++b) {
                        const float ratio = j + b <= i ? expf((float)(logs[m][i] - logs[m][j + b])) : 0.0f;
                        v[b] = ratio * sums[e].at(half * 2 + b);
                    }
                    if (keyed) {
                        l[m][i][j] = j < i ? betas[m][i] * (v[0] / SQUARED) : 0.0f;
                        l[m][i][j + 1] = j + 1 < i ? betas[m][i] * (v[1] / SQUARED) : 0.0f;
                    } else {
                        const Split s = split(v[0], v[1]);
                        *(u32*)(to + i * CHUNK + j) = s.high;
                        *(u32*)(to + (CHUNK + i) * CHUNK + j) = s.low;
                    }
                }
            }
        }
        __syncthreads();
        if (warp < some) invert(l[warp], square(head(first + warp), 0));
    }
}

// What `chunk_outer` keeps in shared memory.
struct Shared {
    u16 k[2][2][CHUNK][LINE];
    u16 q[2][CHUNK][LINE];
    u16 inverse[2][CHUNK][SQUARE];
    u16 p[2][CHUNK][SQUARE];
    u16 state[2][WIDE][SQUARE];
    u16 x[2][CHUNK][SQUARE];
    // δ, and what of it is left at the chunk's end.
    u16 delta[2][CHUNK][SQUARE];
    u16 tail[2][CHUNK][SQUARE];
    Factors factors[2][CHUNK];
    // The largest of each warp's tile; of the state, which is read while that of the next
    // chunk is written, in turn.
    float most_state[2][8], most_x[4], most_delta[8], most_tail[8];
};

static_assert(sizeof(Shared) == 99472, "as in chunked.rs");

// A split matrix of 32 rows, on its way to shared memory.
template <u32 STRIDE>
DEVICE void fetch(u16 (&to)[2][CHUNK][STRIDE], const u16* from) {
    const u32 ROW = (STRIDE - 8) / 8;
#pragma unroll
    for (u32 i = 0; i < 2 * CHUNK * ROW / 256; ++i) {
        const u32 e = threadIdx.x + i * 256, r = e / ROW;
        copy_async(shared_address(&to[0][0][0] + r * STRIDE + e % ROW * 8), from + e * 8, true);
    }
}

KERNEL __launch_bounds__(256) chunk_outer(const __grid_constant__ Args p) {
    extern __shared__ __align__(16) u8 shared_bytes[];
    Shared& s = *(Shared*)shared_bytes;
    start_next();
    const u32 span = blockIdx.z, h = blockIdx.y;
    if (span >= *p.spans) return;
    const u32 begin = p.span_start[span], end = p.span_start[span + 1];
    u32 chunk = 0;
    for (u32 i = 0; i < span; ++i) chunk += chunks_of(p, i);
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    const u32 column = blockIdx.x * COLUMNS, key_head = p.tiled ? h % p.key_heads : h / (p.heads / p.key_heads);
    const Lanes down = down_first(lane), across = across_first(lane);
    // The thread's part of the state: rows g and g + 8 of the warp's 16, columns 2t and
    // 2t + 1 of each 8.
    const u32 d0 = warp * 16 + g, c0 = column + t * 2;
    float* own = p.state + (u64)h * p.dk * p.dv;
    float state[4][4];
    // Nothing in this step has written the state.
    const u32 slot_in = p.state_in[span];
    each<4>([&](u32 j, u32 i, u32 d, u32 c) {
        const bool in = d0 + d < p.dk && c0 + c < p.dv && slot_in < p.slots;
        state[j][i] = in ? own[(u64)slot_in * p.slot_stride + (d0 + d) * p.dv + c0 + c] : 0.0f;
    });
    auto keep_state = [&](u32 slot, const float (&x)[4][4]) {
        each<4>([&](u32 j, u32 i, u32 d, u32 c) {
            if (d0 + d < p.dk && c0 + c < p.dv) own[(u64)slot * p.slot_stride + (d0 + d) * p.dv + c0 + c] = x[j][i];
        });
    };
    const u16* keys = p.keys + ((u64)chunk * p.key_heads + key_head) * 4 * CHUNK * WIDE;
    const u16* squares = p.squares + ((u64)chunk * p.heads + h) * 4 * CHUNK * CHUNK;
    const Factors* factors = p.factors + ((u64)chunk * p.heads + h) * CHUNK;
    const u64 next_keys = (u64)p.key_heads * 4 * CHUNK * WIDE, next_squares = (u64)p.heads * 4 * CHUNK * CHUNK;
    auto fetch_keys = [&](u32 turn) {
        fetch(s.k[turn], keys + 2 * CHUNK * WIDE);
        if (threadIdx.x < CHUNK) copy_async(shared_address(&s.factors[turn][threadIdx.x]), factors + threadIdx.x, true);
    };
    wait_for_previous();
    if (begin == end) return;
    fetch_keys(0);
    fetch(s.q, keys);
    fetch(s.inverse, squares);
    copy_commit();
    // 16 rows of keys or of queries by 16 columns. The warps of either are spread over the
    // four schedulers.
    const bool keyed = ((warp >> 1 ^ warp >> 2) & 1) == 0;
    const u32 r0 = (warp & 1) * 16, half = (warp >> 2) * 16;
    const u32 row = r0 + g, value = column + half + t * 2;
    auto load_values = [&](float (&v)[2][4], u32 t0) {
        each<2>([&](u32 e, u32 i, u32 r, u32 c) {
            const bool in = keyed && t0 + row + r < end && value + c < p.dv;
            v[e][i] = in ? p.v[(u64)(t0 + row + r) * p.v_stride + h * p.dv + value + c] : 0.0f;
        });
    };
    float ahead[2][4];
    load_values(ahead, begin);
    float most = most_of(state);
    if (lane == 0) s.most_state[0][warp] = most;
    __syncthreads();
    // That of the state in shared memory.
    Scale scale = scale_of(most_of(s.most_state[0]));
    store_tile(s.state, d0, t * 2, state, scale.to);
    const float shorter = 1.0f / sqrtf((float)p.dk);
    u32 turn = 0;
    for (u32 t0 = begin; t0 < end; t0 += CHUNK, turn ^= 1) {
        const u32 n = min(end - t0, (u32)CHUNK);
        const bool more = t0 + CHUNK < end;
        copy_wait<0>();
        __syncthreads();
        fetch(s.p, squares + 2 * CHUNK * CHUNK);
        copy_commit();
        if (more) {
            keys += next_keys;
            squares += next_squares;
            factors += (u64)p.heads * CHUNK;
            fetch_keys(turn ^ 1);
        }
        copy_commit();
        const u32 slot = lane < n ? p.state_out[t0 + lane] : ~0u;
        // q and k times the state; of k what the rows are to write.
        float v[2][4];
#pragma unroll
        for (u32 e = 0; e < 8; ++e) v[e / 4][e % 4] = ahead[e / 4][e % 4];
        load_values(ahead, t0 + CHUNK);
        Sums sums[2] = {};
#pragma unroll
        for (u32 d = 0; d < WIDE; d += 16) {
            const Tile a = keyed ? load(s.k[turn], r0 + down.row, d + down.column) : load(s.q, r0 + down.row, d + down.column);
            const Tile b = load_trans(s.state, d + down.row, half + down.column);
#pragma unroll
            for (u32 e = 0; e < 2; ++e) multiply(sums[e], a, b, e);
        }
        each<2>([&](u32 e, u32 i, u32 r, u32) {
            const Factors& f = s.factors[turn][row + r];
            const float x = f.gamma * (sums[e].at(i) * (scale.from / LENGTH));
            v[e][i] = keyed ? f.beta * (v[e][i] - x) : x;
        });
        if (keyed) {
            most = most_of(v);
            if (lane == 0) s.most_x[warp / 4 * 2 + warp % 2] = most;
            store_tile(s.x, row, half + t * 2, v, scale_of(most).to);
        }
        __syncthreads();
        if (more) fetch(s.q, keys);
        copy_commit();
        // δ, 16 rows by 8 columns a warp.
        const u32 delta_column = warp / 2 * 8 + t * 2;
        float delta[1][4] = {}, tail[1][4];
        {
            const Tile b = load_trans(s.x, lane, warp / 2 * 8);
#pragma unroll
            for (u32 j = 0; j < 2; ++j) {
                Sums sums = {};
                multiply(sums, load(s.inverse, r0 + down.row, j * 16 + down.column), b, j);
                add_scaled(delta[0], sums, scale_of(s.most_x[warp / 4 * 2 + j]).from / SQUARED);
            }
        }
#pragma unroll
        for (u32 i = 0; i < 4; ++i) tail[0][i] = delta[0][i] * s.factors[turn][row + i / 2 * 8].tail;
        most = most_of(delta);
        const float most_tail = most_of(tail);
        if (lane == 0) {
            s.most_delta[warp] = most;
            s.most_tail[warp] = most_tail;
        }
        store_tile(s.delta, row, delta_column, delta, scale_of(most).to);
        store_tile(s.tail, row, delta_column, tail, scale_of(most_tail).to);
        // P has come.
        copy_wait<2>();
        __syncthreads();
        if (more) fetch(s.inverse, squares);
        copy_commit();
        if (!keyed) {
#pragma unroll
            for (u32 j = 0; j < 2; ++j) {
                const Tile a = load(s.p, r0 + down.row, j * 16 + down.column), b = load_trans(s.delta, j * 16 + down.row, half + down.column);
#pragma unroll
                for (u32 e = 0; e < 2; ++e) {
                    Sums sums = {};
                    multiply(sums, a, b, e);
                    add_scaled(v[e], sums, scale_of(s.most_delta[(half / 8 + e) * 2 + j]).from / SQUARED);
                }
            }
            each<2>([&](u32 e, u32 i, u32 r, u32 c) {
                const bool in = row + r < n && value + c < p.dv;
                if (in) p.o[(u64)(t0 + row + r) * p.o_stride + h * p.dv + value + c] = v[e][i] * shorter;
            });
        }
        // States that are kept behind rows inside the chunk, which is seldom: in f32, from δ
        // in the place of X, which nobody reads any more.
        u32 kept = __ballot_sync(0xffffffffu, slot < p.slots && lane + 1 < n);
        float(*written)[SQUARE] = (float(*)[SQUARE])s.x;
        if (kept) {
            each<1>([&](u32 e, u32 i, u32 r, u32 c) { written[row + r][delta_column + c] = delta[e][i]; });
            __syncthreads();
        }
        while (kept) {
            const u32 i = __ffs(kept) - 1;
            kept &= kept - 1;
            double log = 0.0;
            for (u32 j = lane + 1; j <= i; ++j) log += s.factors[turn][j].log;
            const float ratio = lane <= i ? expf((float)log) / LENGTH : 0.0f;
            const float gamma = s.factors[turn][i].gamma;
            float at[4][4];
#pragma unroll
            for (u32 e = 0; e < 16; ++e) at[e / 4][e % 4] = gamma * state[e / 4][e % 4];
            for (u32 j = 0; j <= i; ++j) {
                const float w = __shfl_sync(0xffffffffu, ratio, j);
                const float a[2] = {w * whole(&s.k[turn][0][j][d0], CHUNK * LINE), w * whole(&s.k[turn][0][j][d0 + 8], CHUNK * LINE)};
                each<4>([&](u32 m, u32 e, u32, u32 c) { at[m][e] = fmaf(a[e / 2], written[j][t * 2 + c], at[m][e]); });
            }
            keep_state(__shfl_sync(0xffffffffu, slot, i), at);
        }
        const float gamma = s.factors[turn][n - 1].gamma;
#pragma unroll
        for (u32 e = 0; e < 16; ++e) state[e / 4][e % 4] *= gamma;
#pragma unroll
        for (u32 j = 0; j < 2; ++j) {
            const Tile a = load_trans(s.k[turn], j * 16 + across.row, warp * 16 + across.column);
            Tile b;
#pragma unroll
            for (u32 c = 0; c < 4; ++c) {
                Sums sums = {};
                if (c % 2 == 0) b = load_trans(s.tail, j * 16 + down.row, c * 8 + down.column);
                multiply(sums, a, b, c % 2);
                add_scaled(state[c], sums, scale_of(s.most_tail[c * 2 + j]).from / LENGTH);
            }
        }
        // No number of the state is larger than 33 times the larger of these: 32 rows of
        // length one were added to it.
        scale = scale_of(fmaxf(gamma * most_of(s.most_state[turn]), most_of(s.most_tail)));
        store_tile(s.state, d0, t * 2, state, scale.to);
        most = most_of(state);
        if (lane == 0) s.most_state[turn ^ 1][warp] = most;
        const u32 last = __shfl_sync(0xffffffffu, slot, n - 1);
        if (last < p.slots) keep_state(last, state);
    }
    copy_wait<0>();
}
