// op: linear, many rows of f32 weights: routers, gates. y[r, n] = Σₖ x[r, k]·w[n, k]
// (+ bias[n]), each sum in f32 over K in order.
// x f32 [R, K], w f32 [N, K] row-major, bias f32 [N], y f32 [R, N].
// Launch: a block for each tile of columns (x) and rows (y): `fma_wide` 128 rows by 64
// columns, 8 by 4 a thread; `fma_narrow`, for matrices of few rows, 32 by 32, 2 by 4 a
// thread. 16 of K at a time, the next in registers while these are multiplied.
// Tolerance 2e-5.
#include "../common/f32_linear.cuh"

enum { DEPTH = 16 };

// Four neighbours of a row, zeros where there are none.
DEVICE float4 load4(const float* row, u32 k, u32 end, bool there, bool aligned) {
    if (!there || k >= end) return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (aligned) return *(const float4*)(row + k);
    float v[4];
#pragma unroll
    for (u32 i = 0; i < 4; ++i) v[i] = k + i < end ? row[k + i] : 0.0f;
    return make_float4(v[0], v[1], v[2], v[3]);
}

template <int N>
DEVICE void read(float (&v)[N], const float* from) {
    if (N == 2) {
        const float2 a = *(const float2*)from;
        v[0] = a.x;
        v[1] = a.y;
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            const float4 a = *(const float4*)(from + i);
            v[i] = a.x;
            v[i + 1] = a.y;
            v[i + 2] = a.z;
            v[i + 3] = a.w;
        }
    }
}

// A thread's share of a tile of LINES rows: loaded along K, laid across it.
template <int LINES, int THREADS>
struct Tile {
    enum { OWN = LINES * DEPTH / 4 / THREADS };
    float4 v[OWN];

    static __device__ __forceinline__ u32 line(u32 i) { return (threadIdx.x + i * THREADS) / (DEPTH / 4); }
    static __device__ __forceinline__ u32 depth(u32 i) { return (threadIdx.x + i * THREADS) % (DEPTH / 4) * 4; }
    __device__ __forceinline__ void load(const float* from, u32 stride, u32 first, u32 end, u32 k0, u32 k, bool aligned) {
#pragma unroll
        for (u32 i = 0; i < OWN; ++i) {
            const u32 row = first + line(i);
            v[i] = load4(from + (u64)min(row, end - 1) * stride, k0 + depth(i), k, row < end, aligned);
        }
    }
    __device__ __forceinline__ void lay(float (&to)[DEPTH][LINES + 4]) const {
#pragma unroll
        for (u32 i = 0; i < OWN; ++i) {
            to[depth(i)][line(i)] = v[i].x;
            to[depth(i) + 1][line(i)] = v[i].y;
            to[depth(i) + 2][line(i)] = v[i].z;
            to[depth(i) + 3][line(i)] = v[i].w;
        }
    }
};

template <int ROWS, int COLUMNS, int TR, int TC>
DEVICE void run(const Args& p) {
    enum { THREADS = ROWS / TR * (COLUMNS / TC) };
    __shared__ __align__(16) float xs[2][DEPTH][ROWS + 4], ws[2][DEPTH][COLUMNS + 4];
    const u32 n0 = blockIdx.x * COLUMNS, r0 = blockIdx.y * ROWS;
    const u32 column = threadIdx.x % (COLUMNS / TC) * TC, row = threadIdx.x / (COLUMNS / TC) * TR;
    Tile<COLUMNS, THREADS> w;
    Tile<ROWS, THREADS> x;
    w.load(p.w, p.k, n0, p.n, 0, p.k, p.aligned != 0);
    start_next();
    wait_for_previous();
    const u32 rows = real_rows(p.count);
    if (r0 >= rows) return;
    x.load(p.x, p.x_stride, r0, rows, 0, p.k, p.aligned != 0);
    x.lay(xs[0]);
    w.lay(ws[0]);
    __syncthreads();
    float acc[TR][TC] = {};
    u32 turn = 0;
    for (u32 k0 = 0; k0 < p.k; k0 += DEPTH, turn ^= 1) {
        const bool more = k0 + DEPTH < p.k;
        if (more) {
            x.load(p.x, p.x_stride, r0, rows, k0 + DEPTH, p.k, p.aligned != 0);
            w.load(p.w, p.k, n0, p.n, k0 + DEPTH, p.k, p.aligned != 0);
        }
#pragma unroll
        for (u32 d = 0; d < DEPTH; ++d) {
            float a[TR], b[TC];
            read<TR>(a, &xs[turn][d][row]);
            read<TC>(b, &ws[turn][d][column]);
#pragma unroll
            for (int i = 0; i < TR; ++i) {
#pragma unroll
                for (int j = 0; j < TC; ++j) acc[i][j] = fmaf(a[i], b[j], acc[i][j]);
            }
        }
        if (more) {
            x.lay(xs[turn ^ 1]);
            w.lay(ws[turn ^ 1]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < TR; ++i) {
        const u32 r = r0 + row + i;
        if (r >= rows) continue;
#pragma unroll
        for (int j = 0; j < TC; ++j) {
            const u32 n = n0 + column + j;
            if (n < p.n) p.y[(u64)r * p.y_stride + n] = acc[i][j] + (p.bias ? p.bias[n] : 0.0f);
        }
    }
}

KERNEL __launch_bounds__(256) fma_wide(const __grid_constant__ Args p) { run<128, 64, 8, 4>(p); }
KERNEL __launch_bounds__(128) fma_narrow(const __grid_constant__ Args p) { run<32, 32, 2, 4>(p); }
