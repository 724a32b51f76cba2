// ops: causal_conv of q, of k and of v, then gated_delta, few rows; see
// `causal_conv/plain.cu` and `gated_delta/recurrent.cu`, whose launch this is. Each
// block convolves what it needs; one of them writes it and keeps its state.
// `conv_delta_norm`, one row: rms_norm and silu_mul behind them, y = silu(z)·o·rsqrt(
// mean(o²) + eps)·(w + offset) of each head, by the last of the head's blocks that is
// done. `delta_net_*`: the linears to a and b ahead of all that, x f32 [1, K], w
// [heads, K] in f32, f16 or bf16, whose first weights are under way before the kernel
// ahead has ended. Tolerance 1e-4.
#include "delta.cuh"

struct Args {
    // Of q, k and v.
    const float* x[3];
    const float* w[3];
    const float* bias[3];
    float* y[3];
    float* past[3];
    // z, the norm's weights, y; null without a norm.
    const float* gate;
    const float* norm;
    float* normed;
    // The row and the weights that a and b are products of; null where they are stored.
    const float* row;
    const void* projection[2];
    const float* projection_bias[2];
    Delta d;
    u32 channels[3], kernel[3], silu[3], slots[3], slot_stride[3], x_stride[3], y_stride[3];
    u32 k, aligned;
    float eps, offset;
};

// Taps before a row that a thread keeps: kernels are of four as a rule.
enum { KEPT = 3 };

// What a channel's first value is made of but for its own row.
struct Window {
    float past[KEPT], w[KEPT], last;
};

struct Convolved {
    enum { SUMS = 2 };
    const Args& p;
    u32 from;
    // Whether the block writes q and k.
    bool writes;
    Window window[3];

    __device__ __forceinline__ const float* past(u32 m, u32 c) const {
        return from < p.slots[m] ? p.past[m] + (u64)from * p.slot_stride[m] + c : 0;
    }
    __device__ __forceinline__ void hold(u32 m, u32 c) {
        const u32 before = p.kernel[m] - 1;
        const float* at = past(m, c);
        if (before > KEPT) return;
#pragma unroll
        for (u32 j = 0; j < KEPT; ++j) {
            window[m].past[j] = at && j < before ? at[(u64)j * p.channels[m]] : 0.0f;
            window[m].w[j] = j < before ? p.w[m][c * (before + 1) + j] : 0.0f;
        }
        window[m].last = p.w[m][c * (before + 1) + before];
    }
    __device__ __forceinline__ float convolve(u32 m, u32 t, u32 i, u32 c, bool writes) const {
        const u32 kernel = p.kernel[m], before = kernel - 1;
        const bool held = i == 0 && before <= KEPT;
        const float* at = past(m, c);
        // Input of the sequence at place j of the window that ends at the row.
        auto input = [&](u32 j) -> float {
            if (i + j >= before) return p.x[m][(u64)(t + j - before) * p.x_stride[m] + c];
            return at ? at[(u64)(i + j) * p.channels[m]] : 0.0f;
        };
        const float own = p.x[m][(u64)t * p.x_stride[m] + c];
        float sum = 0.0f;
        if (held) {
#pragma unroll
            for (u32 j = 0; j < KEPT; ++j) {
                if (j < before) sum = fmaf(window[m].past[j], window[m].w[j], sum);
            }
            sum = fmaf(own, window[m].last, sum);
        } else {
#pragma unroll 1
            for (u32 j = 0; j < kernel; ++j) sum = fmaf(input(j), p.w[m][c * kernel + j], sum);
        }
        if (p.bias[m]) sum += p.bias[m][c];
        if (p.silu[m]) sum = silu(sum);
        const u32 slot = p.d.state_out[t];
        if (!writes) return sum;
        p.y[m][(u64)t * p.y_stride[m] + c] = sum;
        if (slot >= p.slots[m] || !before) return sum;
        float* keep = p.past[m] + (u64)slot * p.slot_stride[m] + c;
        if (held) {
#pragma unroll
            for (u32 j = 1; j < KEPT; ++j) {
                if (j < before) keep[(u64)(j - 1) * p.channels[m]] = window[m].past[j];
            }
            keep[(u64)(before - 1) * p.channels[m]] = own;
        } else {
#pragma unroll 1
            for (u32 j = 1; j < kernel; ++j) keep[(u64)(j - 1) * p.channels[m]] = input(j);
        }
        return sum;
    }
    // Nothing in this step has written the windows.
    __device__ __forceinline__ void ahead(u32, u32 d, u32 c) {
        hold(0, d);
        hold(1, d);
        hold(2, c);
    }
    __device__ __forceinline__ float query(u32 t, u32 i, u32 d) const { return convolve(0, t, i, d, writes); }
    __device__ __forceinline__ float key(u32 t, u32 i, u32 d) const { return convolve(1, t, i, d, writes); }
    __device__ __forceinline__ float value(u32 t, u32 i, u32 c) const { return convolve(2, t, i, c, true); }
    __device__ __forceinline__ void begin(u32) const {}
    __device__ __forceinline__ void rates(u32 t, u32 h, float* ab) const { Stored{p.d}.rates(t, h, ab); }
    __device__ __forceinline__ void end(u32, u32) const {}
};

// Most heads, whose blocks are counted, and most columns of one.
enum { MOST_HEADS = 256, MOST_DV = 256 };

// Blocks of a head that are done; the last one sets it back.
__device__ u32 arrived[MOST_HEADS];

// With a norm of o behind it. Lanes of the first warp share a head's columns.
struct Normed : Convolved {
    float gate[MOST_DV / 32], w[MOST_DV / 32];
    __device__ __forceinline__ Normed(const Args& p, u32 from, bool writes) : Convolved{p, from, writes} {}
    __device__ __forceinline__ void begin(u32 h) {
        if (threadIdx.x >= 32) return;
#pragma unroll
        for (u32 i = 0; i < MOST_DV / 32; ++i) {
            const u32 c = threadIdx.x + 32 * i;
            gate[i] = c < p.d.dv ? p.gate[h * p.d.dv + c] : 0.0f;
            w[i] = c < p.d.dv ? p.norm[c] : 0.0f;
        }
    }
    __device__ __forceinline__ void end(u32, u32 h) {
        const u32 lane = threadIdx.x;
        __threadfence();
        __syncwarp();
        u32 last = 0;
        if (lane == 0) {
            last = atomicAdd(&arrived[h], 1u) + 1 == gridDim.x;
            if (last) arrived[h] = 0;
        }
        if (!__shfl_sync(0xffffffffu, last, 0)) return;
        __threadfence();
        // What lane 0 has seen of the other blocks, all lanes see: a shuffle alone orders no memory.
        __syncwarp();
        float o[MOST_DV / 32], squares = 0.0f;
#pragma unroll
        for (u32 i = 0; i < MOST_DV / 32; ++i) {
            const u32 c = lane + 32 * i;
            o[i] = c < p.d.dv ? __ldcg(p.d.o + h * p.d.dv + c) : 0.0f;
        }
#pragma unroll
        for (u32 i = 0; i < MOST_DV / 32; ++i) squares = fmaf(o[i], o[i], squares);
        const float scale = 1.0f / sqrtf(warp_sum(squares) / (float)p.d.dv + p.eps);
#pragma unroll
        for (u32 i = 0; i < MOST_DV / 32; ++i) {
            const u32 c = lane + 32 * i;
            if (c < p.d.dv) p.normed[h * p.d.dv + c] = silu(gate[i]) * (o[i] * scale * (w[i] + p.offset));
        }
    }
};

// And with the products to a and b ahead: threads share K by pieces of 16 bytes.
template <class S>
struct Projected : Normed {
    enum { SUMS = 4, HELD = 8 / S::PIECE };
    uint4 held[2][HELD];
    __device__ __forceinline__ Projected(const Args& p, u32 from, bool writes) : Normed(p, from, writes) {}
    __device__ __forceinline__ const typename S::word* weights(u32 m, u32 h) const {
        return (const typename S::word*)p.projection[m] + (u64)h * p.k;
    }
    __device__ __forceinline__ void ahead(u32 h, u32 d, u32 c) {
        Normed::ahead(h, d, c);
#pragma unroll
        for (u32 j = 0; j < HELD; ++j) {
            const u32 i = (threadIdx.x + j * blockDim.x) * S::PIECE;
#pragma unroll
            for (u32 m = 0; m < 2; ++m) {
                held[m][j] = p.aligned && i < p.k ? load_stream(weights(m, h) + i) : make_uint4(0, 0, 0, 0);
            }
        }
    }
    __device__ __forceinline__ void add(float* ab, const uint4 (&raw)[2], u32 i) const {
        float f[2][S::PIECE];
        S::piece(raw[0], f[0]);
        S::piece(raw[1], f[1]);
#pragma unroll
        for (u32 e = 0; e < S::PIECE; e += 4) {
            const float4 v = *(const float4*)(p.row + i + e);
#pragma unroll
            for (u32 m = 0; m < 2; ++m) {
                ab[m] = fmaf(f[m][e], v.x, ab[m]);
                ab[m] = fmaf(f[m][e + 1], v.y, ab[m]);
                ab[m] = fmaf(f[m][e + 2], v.z, ab[m]);
                ab[m] = fmaf(f[m][e + 3], v.w, ab[m]);
            }
        }
    }
    __device__ __forceinline__ void rates(u32, u32 h, float* ab) const {
        ab[0] = ab[1] = 0.0f;
        if (p.aligned) {
#pragma unroll
            for (u32 j = 0; j < HELD; ++j) {
                const u32 i = (threadIdx.x + j * blockDim.x) * S::PIECE;
                const uint4 raw[2] = {held[0][j], held[1][j]};
                if (i < p.k) add(ab, raw, i);
            }
            for (u32 i = (threadIdx.x + HELD * blockDim.x) * S::PIECE; i < p.k; i += blockDim.x * S::PIECE) {
                const uint4 raw[2] = {load_stream(weights(0, h) + i), load_stream(weights(1, h) + i)};
                add(ab, raw, i);
            }
        } else {
            for (u32 i = threadIdx.x; i < p.k; i += blockDim.x) {
                const float v = p.row[i];
#pragma unroll
                for (u32 m = 0; m < 2; ++m) ab[m] = fmaf(S::get(weights(m, h)[i]), v, ab[m]);
            }
        }
        if (threadIdx.x == 0) {
#pragma unroll
            for (u32 m = 0; m < 2; ++m) {
                if (p.projection_bias[m]) ab[m] += p.projection_bias[m][h];
            }
        }
    }
};

template <int DK, class Source>
DEVICE void conv_delta_of(const Args& p) {
    const u32 h = blockIdx.y;
    const bool first = p.d.tiled ? h < p.d.key_heads : h % (p.d.heads / p.d.key_heads) == 0;
    Source source{p, p.d.state_in[blockIdx.z], first && blockIdx.x == 0};
    recurrent<DK>(p.d, source);
}

#define ENTRIES(NAME, ...)                                                                                               \
    KERNEL __launch_bounds__(256) NAME##_128(const __grid_constant__ Args p) { conv_delta_of<128, __VA_ARGS__>(p); }     \
    KERNEL __launch_bounds__(256) NAME##_256(const __grid_constant__ Args p) { conv_delta_of<256, __VA_ARGS__>(p); }
ENTRIES(conv_delta, Convolved)
ENTRIES(conv_delta_norm, Normed)
ENTRIES(delta_net_f32, Projected<f32_t>)
ENTRIES(delta_net_f16, Projected<f16_t>)
ENTRIES(delta_net_bf16, Projected<bf16_t>)
