// op: gated_delta, 32 rows at a time; the rule as in `recurrent.cu`. With Γᵢ = Πⱼ≤ᵢ gⱼ
// inside a chunk, S₀ the state before it and δᵢ what row i writes (Sᵢ = gᵢ·Sᵢ₋₁ + kᵢ·δᵢ):
//   L = βᵢ·Γᵢ/Γⱼ·(kᵢ·kⱼ) below the diagonal, P = Γᵢ/Γⱼ·(qᵢ·kⱼ) up to it
//   δ = (I + L)⁻¹·X, Xᵢ = βᵢ·(vᵢ − Γᵢ·kᵢᵀS₀)
//   oᵢ = Γᵢ·qᵢᵀS₀ + (P·δ)ᵢ,  S = Γ·S₀ + Σⱼ Γ/Γⱼ·kⱼ·δⱼ
// `chunk_inner`: (I + L)⁻¹, P and the factors of each row for all chunks at once. Launch:
// 8 warps for each chunk (x) of a value head (y); a chunk ends with its span.
// `chunk_outer`: the rest, chunk by chunk. Launch: 8 warps for each (32 columns of dv,
// value head, span); the state in registers, and in shared memory for the products.
// Shapes as in `recurrent.cu`, dk ≤ 128. f32; ln Γ in f64, so that ratios Γᵢ/Γⱼ ≤ 1 are
// good. Tolerance 1e-4. The chunked form: Yang et al. 2024, derived anew.
#include "../common/mma.cuh"
#include "../common/reduce.cuh"

enum { CHUNK = 32, MOST_DK = 128, LINE = MOST_DK + 4, SQUARE = CHUNK + 4 };

// What a row of a head brings to the products with the raw q and k, which `key` and the
// norm of q bring to length one.
struct Factors {
    float beta, past, out, rest;
    float log, key, gamma, none;
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
    // [T, heads], and of each chunk and head the inverse and P, [32, 32] each.
    Factors* factors;
    float* squares;
    float* state;
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

DEVICE float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }
DEVICE u32 chunks_of(const Args& p, u32 span) { return (p.span_start[span + 1] - p.span_start[span] + CHUNK - 1) / CHUNK; }
DEVICE u32 key_at(const Args& p, u32 h) { return (p.tiled ? h % p.key_heads : h / (p.heads / p.key_heads)) * p.dk; }
DEVICE float dot4(float4 a, float4 b, float sum) {
    sum = fmaf(a.x, b.x, sum);
    sum = fmaf(a.y, b.y, sum);
    sum = fmaf(a.z, b.z, sum);
    return fmaf(a.w, b.w, sum);
}
DEVICE void add4(float (&acc)[4], float x, float4 v) {
    acc[0] = fmaf(x, v.x, acc[0]);
    acc[1] = fmaf(x, v.y, acc[1]);
    acc[2] = fmaf(x, v.z, acc[2]);
    acc[3] = fmaf(x, v.w, acc[3]);
}
DEVICE float part(const float4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// A row's numbers 4·lane to 4·lane + 3, zeros behind dk.
DEVICE float4 load4(const Args& p, const float* x, u32 lane) {
    if (p.aligned) return lane * 4 < p.dk ? *(const float4*)(x + lane * 4) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float v[4];
#pragma unroll
    for (u32 i = 0; i < 4; ++i) v[i] = lane * 4 + i < p.dk ? x[lane * 4 + i] : 0.0f;
    return make_float4(v[0], v[1], v[2], v[3]);
}

// (I + L)⁻¹, a column in each lane, row by row.
DEVICE void invert(const float (&l)[CHUNK][SQUARE], float* to) {
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
        to[i * CHUNK + lane] = x[i];
    }
}

KERNEL __launch_bounds__(256) chunk_inner(const __grid_constant__ Args p) {
    __shared__ __align__(16) float q[CHUNK][LINE], k[CHUNK][LINE], l[CHUNK][SQUARE];
    __shared__ double logs[CHUNK];
    __shared__ float norms[2][CHUNK], betas[CHUNK];
    start_next();
    wait_for_previous();
    const u32 h = blockIdx.y, spans = *p.spans;
    u32 span = 0, chunk = blockIdx.x;
    while (span < spans && chunk >= chunks_of(p, span)) chunk -= chunks_of(p, span++);
    if (span >= spans) return;
    const u32 t0 = p.span_start[span] + chunk * CHUNK, n = min(p.span_start[span + 1] - t0, (u32)CHUNK);
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, from = key_at(p, h);
#pragma unroll
    for (u32 j = 0; j < 4; ++j) {
        const u32 i = warp * 4 + j;
        float4 u = make_float4(0.0f, 0.0f, 0.0f, 0.0f), w = u;
        if (i < n) {
            u = load4(p, p.q + (u64)(t0 + i) * p.q_stride + from, lane);
            w = load4(p, p.k + (u64)(t0 + i) * p.k_stride + from, lane);
        }
        const float f = 1.0f / sqrtf(warp_sum(dot4(u, u, 0.0f)) + 1e-6f) / sqrtf((float)p.dk);
        const float e = 1.0f / sqrtf(warp_sum(dot4(w, w, 0.0f)) + 1e-6f);
        *(float4*)&q[i][lane * 4] = make_float4(u.x * f, u.y * f, u.z * f, u.w * f);
        *(float4*)&k[i][lane * 4] = make_float4(w.x * e, w.y * e, w.z * e, w.w * e);
        if (lane == 0) {
            norms[0][i] = f;
            norms[1][i] = e;
        }
    }
    __syncthreads();
    if (warp == 0) {
        float log = 0.0f, beta = 0.0f;
        if (lane < n) {
            const float rate = p.log_decay ? -expf(p.decay[h]) : p.decay[h];
            log = rate * softplus(p.a[(u64)(t0 + lane) * p.a_stride + h] + p.dt_bias[h]);
            beta = sigmoid(p.b[(u64)(t0 + lane) * p.b_stride + h]);
        }
        double upto = log;
#pragma unroll
        for (int d = 1; d < 32; d <<= 1) {
            const double other = __shfl_up_sync(0xffffffffu, upto, d);
            if (lane >= d) upto += other;
        }
        const double all = __shfl_sync(0xffffffffu, upto, 31);
        logs[lane] = upto;
        betas[lane] = beta;
        if (lane < n) {
            const float gamma = expf((float)upto), key = norms[1][lane];
            float4* to = (float4*)&p.factors[(u64)(t0 + lane) * p.heads + h];
            to[0] = make_float4(beta, beta * gamma * key, gamma * norms[0][lane], expf((float)(all - upto)) * key);
            to[1] = make_float4(log, key, gamma, 0.0f);
        }
    }
    __syncthreads();
    // Half of the threads k·k, half q·k, two rows by four columns each.
    const u32 half = threadIdx.x >> 7, i0 = (threadIdx.x >> 3 & 15) * 2, j0 = threadIdx.x & 7;
    const float(*x)[LINE] = half ? q : k;
    float acc[2][4] = {};
    for (u32 d = 0; d < p.dk; d += 4) {
        const float4 a = *(const float4*)&x[i0][d], b = *(const float4*)&x[i0 + 1][d];
#pragma unroll
        for (u32 e = 0; e < 4; ++e) {
            const float4 c = *(const float4*)&k[j0 + 8 * e][d];
            acc[0][e] = dot4(a, c, acc[0][e]);
            acc[1][e] = dot4(b, c, acc[1][e]);
        }
    }
    float* squares = p.squares + ((u64)blockIdx.x * p.heads + h) * 2 * CHUNK * CHUNK;
#pragma unroll
    for (u32 r = 0; r < 2; ++r) {
#pragma unroll
        for (u32 e = 0; e < 4; ++e) {
            const u32 i = i0 + r, j = j0 + 8 * e;
            const float ratio = j <= i ? expf((float)(logs[i] - logs[j])) : 0.0f;
            if (half) {
                squares[CHUNK * CHUNK + i * CHUNK + j] = ratio * acc[r][e];
            } else {
                l[i][j] = j < i ? betas[i] * ratio * acc[r][e] : 0.0f;
            }
        }
    }
    __syncthreads();
    if (warp == 0) invert(l, squares);
}

// What `chunk_outer` keeps in shared memory.
struct Shared {
    float k[2][CHUNK][LINE];
    float q[CHUNK][LINE];
    // The inverse and P.
    float squares[2][2][CHUNK][SQUARE];
    float state[MOST_DK][32];
    float x[CHUNK][32];
    // δ, and δ times what is left of it at the chunk's end.
    float delta[CHUNK][32];
    float rest[CHUNK][32];
    Factors factors[2][CHUNK];
};

DEVICE void copy_word(u32 to, const void* from, bool there) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(there ? 4 : 0));
}

// n rows of a head of q or k, zeros behind them.
DEVICE void fetch_rows(const Args& p, float (&to)[CHUNK][LINE], const float* x, u32 stride, u32 n) {
#pragma unroll
    for (u32 i = 0; i < CHUNK * MOST_DK / 4 / 256; ++i) {
        const u32 e = threadIdx.x + i * 256, r = e / 32, c = e % 32 * 4;
        const float* from = x + (u64)r * stride + c;
        const u32 at = shared_address(&to[r][c]);
        if (p.aligned) {
            const bool in = r < n && c < p.dk;
            copy_async(at, in ? from : x, in);
        } else {
#pragma unroll 1
            for (u32 j = 0; j < 4; ++j) {
                const bool in = r < n && c + j < p.dk;
                copy_word(at + j * 4, in ? from + j : x, in);
            }
        }
    }
}

KERNEL __launch_bounds__(256) chunk_outer(const __grid_constant__ Args p) {
    extern __shared__ __align__(16) u8 shared_bytes[];
    Shared& s = *(Shared*)shared_bytes;
    start_next();
    wait_for_previous();
    const u32 span = blockIdx.z, h = blockIdx.y;
    if (span >= *p.spans) return;
    const u32 begin = p.span_start[span], end = p.span_start[span + 1];
    u32 chunk = 0;
    for (u32 i = 0; i < span; ++i) chunk += chunks_of(p, i);
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5, rg = lane >> 3, cg = lane & 7;
    const u32 col = blockIdx.x * 32 + cg * 4, from = key_at(p, h);
    const bool keys = warp < 4;
    // Rows of the state that the thread owns.
    const u32 d0 = warp * 16 + rg * 4;
    const u64 own = (u64)h * p.dk * p.dv + col;
    const u32 slot_in = p.state_in[span];
    float state[4][4];
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
#pragma unroll
        for (u32 e = 0; e < 4; ++e) {
            const bool there = slot_in < p.slots && d0 + i < p.dk && col + e < p.dv;
            state[i][e] = there ? p.state[(u64)slot_in * p.slot_stride + own + (u64)(d0 + i) * p.dv + e] : 0.0f;
        }
    }
    auto lay_state = [&] {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) *(float4*)&s.state[d0 + i][cg * 4] = make_float4(state[i][0], state[i][1], state[i][2], state[i][3]);
    };
    auto keep_state = [&](u32 slot, const float(&x)[4][4]) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
#pragma unroll
            for (u32 e = 0; e < 4; ++e) {
                if (d0 + i < p.dk && col + e < p.dv) p.state[(u64)slot * p.slot_stride + own + (u64)(d0 + i) * p.dv + e] = x[i][e];
            }
        }
    };
    // Everything but q, of which there is one buffer.
    auto fetch = [&](u32 t0, u32 chunk, u32 turn) {
        if (t0 < end) {
            const u32 n = min(end - t0, (u32)CHUNK);
            fetch_rows(p, s.k[turn], p.k + (u64)t0 * p.k_stride + from, p.k_stride, n);
            const float* squares = p.squares + ((u64)chunk * p.heads + h) * 2 * CHUNK * CHUNK;
#pragma unroll
            for (u32 m = 0; m < 2; ++m) {
                const u32 i = threadIdx.x / 8, j = threadIdx.x % 8 * 4;
                copy_async(shared_address(&s.squares[turn][m][i][j]), squares + m * CHUNK * CHUNK + i * CHUNK + j, true);
            }
            if (threadIdx.x < 2 * CHUNK) {
                const u32 i = threadIdx.x / 2;
                const float* f = (const float*)&p.factors[(u64)(t0 + min(i, n - 1)) * p.heads + h] + threadIdx.x % 2 * 4;
                copy_async(shared_address((float*)&s.factors[turn][i] + threadIdx.x % 2 * 4), f, i < n);
            }
        }
        copy_commit();
    };
    auto fetch_queries = [&](u32 t0) {
        if (t0 < end) fetch_rows(p, s.q, p.q + (u64)t0 * p.q_stride + from, p.q_stride, min(end - t0, (u32)CHUNK));
        copy_commit();
    };
    lay_state();
    fetch(begin, chunk, 0);
    fetch_queries(begin);
    u32 turn = 0;
    for (u32 t0 = begin; t0 < end; t0 += CHUNK, turn ^= 1) {
        const u32 n = min(end - t0, (u32)CHUNK);
        copy_wait<0>();
        __syncthreads();
        fetch(t0 + CHUNK, ++chunk, turn ^ 1);
        // Two rows of k, or of q, times the state.
        const u32 r0 = warp % 4 * 8 + rg;
        const float(*x)[LINE] = keys ? s.k[turn] : s.q;
        float v[2][4], acc[2][4] = {};
        if (keys) {
#pragma unroll
            for (u32 i = 0; i < 2; ++i) {
#pragma unroll
                for (u32 e = 0; e < 4; ++e) {
                    const bool in = r0 + 4 * i < n && col + e < p.dv;
                    v[i][e] = in ? p.v[(u64)(t0 + r0 + 4 * i) * p.v_stride + h * p.dv + col + e] : 0.0f;
                }
            }
        }
#pragma unroll 4
        for (u32 d = 0; d < p.dk; d += 4) {
            const float4 a = *(const float4*)&x[r0][d], b = *(const float4*)&x[r0 + 4][d];
#pragma unroll
            for (u32 e = 0; e < 4; ++e) {
                const float4 w = *(const float4*)&s.state[d + e][cg * 4];
                add4(acc[0], part(a, e), w);
                add4(acc[1], part(b, e), w);
            }
        }
#pragma unroll
        for (u32 i = 0; i < 2; ++i) {
            const Factors& f = s.factors[turn][r0 + 4 * i];
#pragma unroll
            for (u32 e = 0; e < 4; ++e) acc[i][e] = keys ? f.beta * v[i][e] - f.past * acc[i][e] : f.out * acc[i][e];
            if (keys) *(float4*)&s.x[r0 + 4 * i][cg * 4] = make_float4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
        }
        __syncthreads();
        fetch_queries(t0 + CHUNK);
        {
            const u32 i = warp * 4 + rg;
            float delta[4] = {};
            for (u32 j = 0; j < warp * 4 + 4; j += 4) {
                const float4 a = *(const float4*)&s.squares[turn][0][i][j];
#pragma unroll
                for (u32 e = 0; e < 4; ++e) add4(delta, part(a, e), *(const float4*)&s.x[j + e][cg * 4]);
            }
            const float rest = s.factors[turn][i].rest;
            *(float4*)&s.delta[i][cg * 4] = make_float4(delta[0], delta[1], delta[2], delta[3]);
            *(float4*)&s.rest[i][cg * 4] = make_float4(delta[0] * rest, delta[1] * rest, delta[2] * rest, delta[3] * rest);
        }
        __syncthreads();
        if (!keys) {
            for (u32 j = 0; j < warp % 4 * 8 + 8; j += 4) {
                const float4 a = *(const float4*)&s.squares[turn][1][r0][j], b = *(const float4*)&s.squares[turn][1][r0 + 4][j];
#pragma unroll
                for (u32 e = 0; e < 4; ++e) {
                    const float4 w = *(const float4*)&s.delta[j + e][cg * 4];
                    add4(acc[0], part(a, e), w);
                    add4(acc[1], part(b, e), w);
                }
            }
#pragma unroll
            for (u32 i = 0; i < 2; ++i) {
#pragma unroll
                for (u32 e = 0; e < 4; ++e) {
                    const bool in = r0 + 4 * i < n && col + e < p.dv;
                    if (in) p.o[(u64)(t0 + r0 + 4 * i) * p.o_stride + h * p.dv + col + e] = acc[i][e];
                }
            }
        }
        // States that are kept behind rows inside the chunk, which is seldom.
        const u32 slot = lane < n ? p.state_out[t0 + lane] : ~0u;
        u32 kept = __ballot_sync(0xffffffffu, slot < p.slots && lane + 1 < n);
        while (kept) {
            const u32 i = __ffs(kept) - 1;
            kept &= kept - 1;
            double log = 0.0;
            for (u32 j = lane + 1; j <= i; ++j) log += s.factors[turn][j].log;
            const float ratio = lane <= i ? expf((float)log) * s.factors[turn][lane].key : 0.0f;
            const float gamma = s.factors[turn][i].gamma;
            float at[4][4];
#pragma unroll
            for (u32 e = 0; e < 16; ++e) at[e / 4][e % 4] = gamma * state[e / 4][e % 4];
            for (u32 j = 0; j <= i; ++j) {
                const float w = __shfl_sync(0xffffffffu, ratio, j);
                const float4 a = *(const float4*)&s.k[turn][j][d0], b = *(const float4*)&s.delta[j][cg * 4];
#pragma unroll
                for (u32 e = 0; e < 4; ++e) add4(at[e], part(a, e) * w, b);
            }
            keep_state(__shfl_sync(0xffffffffu, slot, i), at);
        }
        const float gamma = s.factors[turn][n - 1].gamma;
#pragma unroll
        for (u32 e = 0; e < 16; ++e) state[e / 4][e % 4] *= gamma;
#pragma unroll 4
        for (u32 j = 0; j < CHUNK; ++j) {
            const float4 a = *(const float4*)&s.k[turn][j][d0], b = *(const float4*)&s.rest[j][cg * 4];
#pragma unroll
            for (u32 e = 0; e < 4; ++e) add4(state[e], part(a, e), b);
        }
        lay_state();
        const u32 last = __shfl_sync(0xffffffffu, slot, n - 1);
        if (last < p.slots) keep_state(last, state);
    }
    copy_wait<0>();
}
