// ops: causal_conv of q, of k and of v, then gated_delta, few rows; see
// `causal_conv/plain.cu` and `gated_delta/recurrent.cu`, whose launch this is. Each
// block convolves what it needs; one of them writes it and keeps its state. Tolerance
// 1e-4.
#include "../common/delta.cuh"

struct Args {
    // Of q, k and v.
    const float* x[3];
    const float* w[3];
    const float* bias[3];
    float* y[3];
    float* past[3];
    Delta d;
    u32 channels[3], kernel[3], silu[3], slots[3], slot_stride[3], x_stride[3], y_stride[3];
};

struct Convolved {
    const Args& p;
    u32 from;
    // Whether the block writes q and k.
    bool writes;

    __device__ __forceinline__ float convolve(u32 m, u32 t, u32 i, u32 c, bool writes) const {
        const u32 kernel = p.kernel[m], before = kernel - 1;
        const float* past = from < p.slots[m] ? p.past[m] + (u64)from * p.slot_stride[m] + c : 0;
        // Input of the sequence at place j of the window that ends at the row.
        auto input = [&](u32 j) -> float {
            if (i + j >= before) return p.x[m][(u64)(t + j - before) * p.x_stride[m] + c];
            return past ? past[(u64)(i + j) * p.channels[m]] : 0.0f;
        };
        float sum = 0.0f;
#pragma unroll 4
        for (u32 j = 0; j < kernel; ++j) sum = fmaf(input(j), p.w[m][c * kernel + j], sum);
        if (p.bias[m]) sum += p.bias[m][c];
        if (p.silu[m]) sum = silu(sum);
        if (writes) {
            p.y[m][(u64)t * p.y_stride[m] + c] = sum;
            const u32 slot = p.d.state_out[t];
            if (slot < p.slots[m]) {
                float* keep = p.past[m] + (u64)slot * p.slot_stride[m] + c;
                for (u32 j = 1; j < kernel; ++j) keep[(u64)(j - 1) * p.channels[m]] = input(j);
            }
        }
        return sum;
    }
    __device__ __forceinline__ void ahead(u32 d, u32 c) const {
        prefetch(p.w[0] + d * p.kernel[0]);
        prefetch(p.w[1] + d * p.kernel[1]);
        prefetch(p.w[2] + c * p.kernel[2]);
#pragma unroll
        for (u32 m = 0; m < 3; ++m) {
            const float* past = p.past[m] + (u64)from * p.slot_stride[m] + (m == 2 ? c : d);
            for (u32 j = 0; from < p.slots[m] && j + 1 < p.kernel[m]; ++j) prefetch(past + j * p.channels[m]);
        }
    }
    __device__ __forceinline__ float query(u32 t, u32 i, u32 d) const { return convolve(0, t, i, d, writes); }
    __device__ __forceinline__ float key(u32 t, u32 i, u32 d) const { return convolve(1, t, i, d, writes); }
    __device__ __forceinline__ float value(u32 t, u32 i, u32 c) const { return convolve(2, t, i, c, true); }
};

KERNEL __launch_bounds__(256) conv_delta(const __grid_constant__ Args p) {
    const u32 h = blockIdx.y;
    const bool first = p.d.tiled ? h < p.d.key_heads : h % (p.d.heads / p.d.key_heads) == 0;
    recurrent(p.d, Convolved{p, p.d.state_in[blockIdx.z], first && blockIdx.x == 0});
}
