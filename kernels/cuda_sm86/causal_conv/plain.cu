// op: causal_conv. y[t, c] = act(Σᵢ w[c, i]·x[t − kernel + 1 + i, c] + bias[c]) over
// the rows of a sequence; what lies before a span's first row comes from its state.
// x, y f32 [T, C], w f32 [C·kernel], bias f32 [C]?, state f32 [kernel − 1, C] a slot.
// Launch: x over channels, y over rows: every (row, channel) alone, the oldest tap
// first. A slot that a row writes is nobody's state_in. Tolerance 2e-5.
#include "../common/base.cuh"

struct Args {
    const float* x;
    const float* w;
    const float* bias;
    float* y;
    float* state;
    const u32* row_span;
    const u32* span_start;
    const u32* state_in;
    const u32* state_out;
    const u32* count;
    u32 channels, kernel, silu, slots, slot_stride, x_stride, y_stride;
};

KERNEL causal_conv(const Args p) {
    start_next();
    wait_for_previous();
    const u32 c = blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    if (c >= p.channels || t >= real_rows(p.count)) return;
    const u32 span = p.row_span[t], past = p.kernel - 1;
    const u32 i = t - p.span_start[span];
    const u32 from = p.state_in[span], to = p.state_out[t];
    const float* before = from < p.slots ? p.state + (u64)from * p.slot_stride + c : 0;
    // Input of the sequence at place j of the window that ends at row i.
    auto input = [&](u32 j) -> float {
        if (i + j >= past) return p.x[(u64)(t + j - past) * p.x_stride + c];
        return before ? before[(u64)(i + j) * p.channels] : 0.0f;
    };
    float sum = 0.0f;
    for (u32 j = 0; j < p.kernel; ++j) sum = fmaf(input(j), p.w[c * p.kernel + j], sum);
    if (p.bias) sum += p.bias[c];
    p.y[(u64)t * p.y_stride + c] = p.silu ? silu(sum) : sum;
    if (to < p.slots) {
        float* keep = p.state + (u64)to * p.slot_stride + c;
        for (u32 j = 1; j < p.kernel; ++j) keep[(u64)(j - 1) * p.channels] = input(j);
    }
}
