// ops: linear, up to four of them, linear+linear+silu_mul, few rows, plain weights. yᵢ[r, n] = Σₖ x[r, k]·wᵢ[n, k] (+ biasᵢ[n]); with silu_mul
// y[r, n] = silu(y₀)·y₁.
// x f32 [R, K], wᵢ [Nᵢ, K] f32, f16 or bf16 row-major, biasᵢ f32, yᵢ f32.
// Launch: a block owns a few columns; its threads share K in pieces of 16 bytes,
// and each weight load serves ROWS rows of x. Sums in f32: a thread's pieces in
// order, then the warp's tree, then warps in order. Tolerance 2e-5.
#include "reduce.cuh"
#include "stacked.cuh"

struct Args {
    const float* x;
    const void* w[MATRICES];
    const float* bias[MATRICES];
    float* y[MATRICES];
    const u32* count;
    // Weights of a norm of x, for one row alone; what is added to y. Null: none.
    const float* norm;
    const float* add;
    u32 k, x_stride, aligned;
    u32 n[MATRICES];
    u32 y_stride[MATRICES];
    u32 add_stride;
    float eps, offset;
};

// A norm's weights and the sum of the squares of the x that a thread has met; the
// norm's scale is applied to the sums of products.
struct Normed {
    const float* weights;
    float offset, squares;
};
struct Bare {};
DEVICE float4 weigh(float4 v, u32, Bare&) { return v; }
DEVICE float4 weigh(float4 v, u32 at, Normed& n) {
    const float4 w = *(const float4*)(n.weights + at);
    n.squares = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, n.squares))));
    return make_float4(v.x * (w.x + n.offset), v.y * (w.y + n.offset), v.z * (w.z + n.offset), v.w * (w.w + n.offset));
}
DEVICE float weigh(float v, u32, Bare&) { return v; }
DEVICE float weigh(float v, u32 at, Normed& n) {
    n.squares = fmaf(v, v, n.squares);
    return v * (n.weights[at] + n.offset);
}
DEVICE void begin(const Args&, Bare&) {}
DEVICE void begin(const Args& p, Normed& n) {
    n.weights = p.norm;
    n.offset = p.offset;
    n.squares = 0.0f;
}

const u32 MOST_WARPS = 8;
// A sum for each warp, in the order of the warps.
DEVICE float in_order(const float (&parts)[MOST_WARPS]) {
    float sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < MOST_WARPS; ++i) sum += i < blockDim.x >> 5 ? parts[i] : 0.0f;
    return sum;
}
// What the sums are multiplied by: squares are the last of a block's parts.
DEVICE void lay_squares(float (&)[MOST_WARPS], const Bare&) {}
DEVICE void lay_squares(float (&parts)[MOST_WARPS], const Normed& n) {
    const float sum = warp_sum(n.squares);
    if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = sum;
}
DEVICE float scale_of(const Args&, const float (&)[MOST_WARPS], const Bare&) { return 1.0f; }
DEVICE float scale_of(const Args& p, const float (&parts)[MOST_WARPS], const Normed&) {
    return 1.0f / sqrtf(in_order(parts) / (float)p.k + p.eps);
}

// acc[r][c] += x[r]·w[c] of piece i.
template <class S, int ROWS, int C, class N>
DEVICE void add_piece(float (&acc)[ROWS][C], const uint4 (&raw)[C], const float* const (&x)[ROWS], u32 i, N& norm) {
    float f[C][S::PIECE];
#pragma unroll
    for (int c = 0; c < C; ++c) S::piece(raw[c], f[c]);
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        const float4* at = (const float4*)(x[r] + (u64)i * S::PIECE);
#pragma unroll
        for (int j = 0; j < S::PIECE / 4; ++j) {
            const float4 v = weigh(at[j], i * S::PIECE + 4 * j, norm);
#pragma unroll
            for (int c = 0; c < C; ++c) {
                acc[r][c] = fmaf(f[c][4 * j], v.x, acc[r][c]);
                acc[r][c] = fmaf(f[c][4 * j + 1], v.y, acc[r][c]);
                acc[r][c] = fmaf(f[c][4 * j + 2], v.z, acc[r][c]);
                acc[r][c] = fmaf(f[c][4 * j + 3], v.w, acc[r][c]);
            }
        }
    }
}

template <class S, int ROWS, int C, class N>
DEVICE void dots(float (&acc)[ROWS][C], const float* const (&x)[ROWS],
                 const typename S::word* const (&w)[C], u32 k, bool aligned, N& norm) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
#pragma unroll
        for (int c = 0; c < C; ++c) acc[r][c] = 0.0f;
    }
    if (aligned) {
        const u32 pieces = k / S::PIECE;
#pragma unroll 2
        for (u32 i = threadIdx.x; i < pieces; i += blockDim.x) {
            uint4 raw[C];
#pragma unroll
            for (int c = 0; c < C; ++c) raw[c] = load_stream(w[c] + (u64)i * S::PIECE);
            add_piece<S, ROWS, C>(acc, raw, x, i, norm);
        }
    } else {
        for (u32 i = threadIdx.x; i < k; i += blockDim.x) {
            float f[C];
#pragma unroll
            for (int c = 0; c < C; ++c) f[c] = S::get(w[c][i]);
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                const float v = weigh(x[r][i], i, norm);
#pragma unroll
                for (int c = 0; c < C; ++c) acc[r][c] = fmaf(f[c], v, acc[r][c]);
            }
        }
    }
}

// NR columns of one matrix, or of gate and up each.
template <class S, int ROWS, int NR, bool GATED, class N>
DEVICE void gemv(const Args& p) {
    const int C = GATED ? 2 * NR : NR;
    __shared__ float parts[ROWS * C + 1][MOST_WARPS];
    u32 b = blockIdx.x;
    const u32 m = GATED ? 0 : matrix_of(p.n, b, NR);
    const u32 n0 = b * NR;
    const u32 n = p.n[m];
    const typename S::word* w[C];
#pragma unroll
    for (int c = 0; c < C; ++c) {
        const void* base = GATED ? p.w[c / NR] : p.w[m];
        w[c] = (const typename S::word*)base + (u64)min(n0 + c % NR, n - 1) * p.k;
    }
    const u32 warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    // Weights can be under way before x is there: a piece of each column. More of them
    // would be in the way of the kernel ahead.
#pragma unroll
    for (int c = 0; c < C; ++c) {
        if (threadIdx.x * S::PIECE < p.k) prefetch(w[c] + threadIdx.x * S::PIECE);
    }
    start_next();
    const u32 rows = real_rows(p.count);
    wait_for_previous();
    for (u32 r0 = 0; r0 < rows; r0 += ROWS) {
        // What this thread writes, and what it adds to that.
        const u32 r = r0 + threadIdx.x / NR, col = n0 + threadIdx.x % NR;
        const bool writes = threadIdx.x < ROWS * NR && r < rows && col < n;
        const float added = writes && p.add ? p.add[(u64)r * p.add_stride + col] : 0.0f;
        const float* x[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; ++r) x[r] = p.x + (u64)min(r0 + r, rows - 1) * p.x_stride;
        float acc[ROWS][C];
        N norm;
        begin(p, norm);
        dots<S, ROWS, C>(acc, x, w, p.k, p.aligned != 0, norm);
        // Who still reads the sums of the rows before.
        if (r0) __syncthreads();
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
#pragma unroll
            for (int c = 0; c < C; ++c) {
                float sum = warp_sum(acc[r][c]);
                if (lane == 0) parts[r * C + c][warp] = sum;
            }
        }
        lay_squares(parts[ROWS * C], norm);
        __syncthreads();
        if (writes) {
            const u32 at = (r - r0) * C + threadIdx.x % NR;
            const float scale = scale_of(p, parts[ROWS * C], norm);
            float sum = in_order(parts[at]) * scale;
            if (p.bias[m]) sum += p.bias[m][col];
            if (GATED) {
                float up = in_order(parts[at + NR]) * scale;
                if (p.bias[1]) up += p.bias[1][col];
                sum = silu(sum) * up;
            }
            if (p.add) sum += added;
            p.y[m][(u64)r * p.y_stride[m] + col] = sum;
        }
    }
}

// Launch: x over groups of 4 columns, y over (row, part).
template <class S>
DEVICE void stacked(const Stacked& s) {
    __shared__ float parts[4][33];
    start_next();
    wait_for_previous();
    u32 e;
    const float* x[1];
    float* y;
    if (!stacked_part(s, e, x[0], y)) return;
    const u32 n0 = blockIdx.x * 4;
    const typename S::word* w[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
        w[c] = (const typename S::word*)s.w + ((u64)e * s.n + min(n0 + c, s.n - 1)) * s.k;
    }
    float acc[1][4];
    Bare bare;
    dots<S, 1, 4>(acc, x, w, s.k, s.aligned != 0, bare);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
        float sum = warp_sum(acc[0][c]);
        if ((threadIdx.x & 31) == 0) parts[c][threadIdx.x >> 5] = sum;
    }
    __syncthreads();
    const u32 col = n0 + threadIdx.x;
    if (threadIdx.x < 4 && col < s.n) {
        float sum = 0.0f;
        for (u32 i = 0; i < blockDim.x >> 5; ++i) sum += parts[threadIdx.x][i];
        if (s.bias) sum += s.bias[(u64)e * s.n + col];
        y[col] = sum;
    }
}

#define ENTRY(T, ROWS, NR)                                                                                          \
    KERNEL gemv_##T##_##ROWS(const __grid_constant__ Args p) { gemv<T##_t, ROWS, NR, false, Bare>(p); }             \
    KERNEL gated_##T##_##ROWS(const __grid_constant__ Args p) { gemv<T##_t, ROWS, (NR + 1) / 2, true, Bare>(p); }
#define ENTRIES(T)                                                                                        \
    ENTRY(T, 1, 4) ENTRY(T, 2, 4) ENTRY(T, 4, 2) ENTRY(T, 8, 2)                                           \
    KERNEL normed_gemv_##T(const __grid_constant__ Args p) { gemv<T##_t, 1, 4, false, Normed>(p); }       \
    KERNEL normed_gated_##T(const __grid_constant__ Args p) { gemv<T##_t, 1, 2, true, Normed>(p); }       \
    KERNEL stacked_##T(const __grid_constant__ Stacked p) { stacked<T##_t>(p); }

ENTRIES(f32)
ENTRIES(f16)
ENTRIES(bf16)
