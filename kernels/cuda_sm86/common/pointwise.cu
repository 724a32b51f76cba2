// ops: add, the gated products, scale, softcap: y[r, i] of the same elements.
// a, b, y f32 [R, N], rows strided; a gate may be [R, 1].
// Launch: x over the elements of a row, y over rows. Tolerance 2e-5: expf, tanhf
// and erff of the CUDA library, 2 units in the last place.
#include "base.cuh"

struct Args2 {
    const float* a;
    const float* b;
    float* y;
    const u32* count;
    u32 len, a_stride, b_stride, y_stride, one_gate;
};

#define BINARY(NAME, EXPR)                                                  \
    KERNEL NAME(const Args2 p) {                                            \
        start_next();                                                       \
        const u32 rows = real_rows(p.count), r = blockIdx.y;                \
        wait_for_previous();                                                \
        u32 i = blockIdx.x * blockDim.x + threadIdx.x;                      \
        if (i >= p.len || r >= rows) return;                                \
        float a = p.a[(u64)r * p.a_stride + (p.one_gate ? 0 : i)];          \
        float b = p.b[(u64)r * p.b_stride + i];                             \
        p.y[(u64)r * p.y_stride + i] = EXPR;                                \
    }

DEVICE float gelu_tanh(float x) {
    return 0.5f * x * (1.0f + tanhf(0.7978846f * (x + 0.044715f * x * x * x)));
}
DEVICE float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
DEVICE float swiglu_oai(float g, float u) {
    g = fminf(g, 7.0f);
    return g * sigmoid(1.702f * g) * (fminf(fmaxf(u, -7.0f), 7.0f) + 1.0f);
}

BINARY(add, a + b)
BINARY(silu_mul, silu(a) * b)
BINARY(gelu_tanh_mul, gelu_tanh(a) * b)
BINARY(gelu_mul, gelu(a) * b)
BINARY(sigmoid_mul, sigmoid(a) * b)
BINARY(mul, a * b)
BINARY(swiglu_oai_mul, swiglu_oai(a, b))

struct Args1 {
    const float* x;
    float* y;
    const u32* count;
    u32 len, x_stride, y_stride;
    float value;
};

#define UNARY(NAME, EXPR)                                                   \
    KERNEL NAME(const Args1 p) {                                            \
        start_next();                                                       \
        const u32 rows = real_rows(p.count), r = blockIdx.y;                \
        wait_for_previous();                                                \
        u32 i = blockIdx.x * blockDim.x + threadIdx.x;                      \
        if (i >= p.len || r >= rows) return;                                \
        float x = p.x[(u64)r * p.x_stride + i];                             \
        p.y[(u64)r * p.y_stride + i] = EXPR;                                \
    }

UNARY(scale, x * p.value)
UNARY(softcap, tanhf(x / p.value) * p.value)
