// op: route. The top_k experts of each row and their weights.
// logits f32 [T, E ≤ 1024], bias f32 [E]?, weights f32 [T, k], experts u32 [T, k].
// Scores are a softmax or the sigmoid of the logits; selection goes by score + bias,
// in the groups whose two largest sum up highest, largest first, the lowest expert
// on ties, a NaN never before a number. Weights are the scores, over their sum if
// normalised, times the scale.
// Launch: one warp for each row. Tolerance 2e-5.
#include "../common/route.cuh"

struct Args {
    const float* logits;
    const float* bias;
    float* weights;
    u32* experts;
    const u32* count;
    u32 n, top_k, sigmoid, normalise, groups, keep, logits_stride, weights_stride, experts_stride;
    float scale;
};

enum { MOST = 1024 };

DEVICE bool better(float a, u32 ia, float b, u32 ib) {
    if (a > b || (b != b && a == a)) return true;
    if (b > a || (a != a && b == b)) return false;
    return ia < ib;
}

// The best of those that are left, for all lanes; ~0 if there is none.
DEVICE u32 best_of(const float* keys, const u8* left, u32 n) {
    float key = 0.0f;
    u32 at = 0xffffffffu;
    for (u32 i = threadIdx.x; i < n; i += 32) {
        if (left[i] && (at == 0xffffffffu || better(keys[i], i, key, at))) {
            key = keys[i];
            at = i;
        }
    }
    for (int d = 16; d; d >>= 1) {
        float other = __shfl_xor_sync(0xffffffffu, key, d);
        u32 other_at = __shfl_xor_sync(0xffffffffu, at, d);
        if (other_at != 0xffffffffu && (at == 0xffffffffu || better(other, other_at, key, at))) {
            key = other;
            at = other_at;
        }
    }
    return at;
}

KERNEL route(const Args p) {
    start_next();
    wait_for_previous();
    __shared__ float scores[MOST];
    __shared__ float keys[MOST];
    __shared__ u8 left[MOST];
    __shared__ float totals[MOST / 2];
    __shared__ u8 out[MOST / 2];
    const u32 t = blockIdx.x, lane = threadIdx.x;
    if (t >= real_rows(p.count)) return;
    const float* logits = p.logits + (u64)t * p.logits_stride;
    if (!p.groups && p.n <= 32 * ROUTED) {
        route_few(p, logits, p.weights + (u64)t * p.weights_stride, p.experts + (u64)t * p.experts_stride);
        return;
    }
    if (p.sigmoid) {
        for (u32 i = lane; i < p.n; i += 32) scores[i] = 1.0f / (1.0f + expf(-logits[i]));
    } else {
        float top = __uint_as_float(0xff800000u);
        for (u32 i = lane; i < p.n; i += 32) top = fmaxf(top, logits[i]);
        top = warp_max(top);
        float sum = 0.0f;
        for (u32 i = lane; i < p.n; i += 32) {
            scores[i] = expf(logits[i] - top);
            sum += scores[i];
        }
        sum = warp_sum(sum);
        for (u32 i = lane; i < p.n; i += 32) scores[i] /= sum;
    }
    for (u32 i = lane; i < p.n; i += 32) {
        keys[i] = scores[i] + (p.bias ? p.bias[i] : 0.0f);
        left[i] = 1;
    }
    __syncwarp();
    if (p.groups) {
        const u32 size = p.n / p.groups;
        for (u32 g = lane; g < p.groups; g += 32) {
            float a = __uint_as_float(0xff800000u), b = a;
            for (u32 i = g * size; i < (g + 1) * size; ++i) {
                float x = keys[i];
                if (x > a) {
                    b = a;
                    a = x;
                } else if (x > b) {
                    b = x;
                }
            }
            totals[g] = a + b;
            out[g] = 1;
        }
        __syncwarp();
        for (u32 i = 0; i < p.keep; ++i) {
            u32 g = best_of(totals, out, p.groups);
            if (lane == 0 && g < p.groups) out[g] = 0;
            __syncwarp();
        }
        for (u32 i = lane; i < p.n; i += 32) left[i] = !out[i / size];
        __syncwarp();
    }
    float* weights = p.weights + (u64)t * p.weights_stride;
    u32* experts = p.experts + (u64)t * p.experts_stride;
    float sum = 0.0f;
    for (u32 j = 0; j < p.top_k; ++j) {
        u32 e = best_of(keys, left, p.n);
        if (e >= p.n) e = 0;
        sum += scores[e];
        if (lane == 0) {
            left[e] = 0;
            weights[j] = scores[e];
            experts[j] = e;
        }
        __syncwarp();
    }
    if (lane == 0) {
        for (u32 j = 0; j < p.top_k; ++j) {
            float w = weights[j];
            if (p.normalise) w /= sum;
            weights[j] = w * p.scale;
        }
    }
}
