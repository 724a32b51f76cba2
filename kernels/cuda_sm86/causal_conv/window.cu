// op: causal_conv, many rows, up to 4 taps; as `plain.cu`. Launch: x over channels, y over
// groups of 16 rows: a thread keeps the taps of its channel and the inputs that the next
// row needs in registers. Tolerance 2e-5.
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

enum { TAPS = 4, PAST = TAPS - 1, ROWS = 16 };

KERNEL __launch_bounds__(128) causal_conv(const Args p) {
    const u32 c = blockIdx.x * blockDim.x + threadIdx.x, t0 = blockIdx.y * ROWS;
    const u32 skipped = TAPS - p.kernel;
    // The first taps of a shorter filter are zero.
    float tap[TAPS];
#pragma unroll
    for (u32 j = 0; j < TAPS; ++j) tap[j] = c < p.channels && j >= skipped ? p.w[c * p.kernel + j - skipped] : 0.0f;
    const float bias = c < p.channels && p.bias ? p.bias[c] : 0.0f;
    start_next();
    wait_for_previous();
    const u32 end = min(t0 + ROWS, real_rows(p.count));
    if (c >= p.channels) return;
    float past[PAST];
    u32 span = ~0u;
    for (u32 t = t0; t < end; ++t) {
        const u32 own = p.row_span[t];
        if (own != span) {
            // What lies before the row, of its span or of the span's state.
            span = own;
            const u32 i = t - p.span_start[span], from = p.state_in[span], kept = p.kernel - 1;
#pragma unroll
            for (u32 j = 0; j < PAST; ++j) {
                const u32 back = PAST - j;
                past[j] = 0.0f;
                if (back <= i) {
                    past[j] = p.x[(u64)(t - back) * p.x_stride + c];
                } else if (back - i <= kept && from < p.slots) {
                    past[j] = p.state[(u64)from * p.slot_stride + (u64)(kept - (back - i)) * p.channels + c];
                }
            }
        }
        const float x = p.x[(u64)t * p.x_stride + c];
        float sum = 0.0f;
#pragma unroll
        for (u32 j = 0; j < PAST; ++j) sum = j >= skipped ? fmaf(past[j], tap[j], sum) : sum;
        sum = fmaf(x, tap[PAST], sum) + bias;
        p.y[(u64)t * p.y_stride + c] = p.silu ? silu(sum) : sum;
#pragma unroll
        for (u32 j = 0; j + 1 < PAST; ++j) past[j] = past[j + 1];
        past[PAST - 1] = x;
        const u32 to = p.state_out[t];
        if (to < p.slots) {
#pragma unroll
            for (u32 j = 0; j < PAST; ++j) {
                if (j >= skipped) p.state[(u64)to * p.slot_stride + (u64)(j - skipped) * p.channels + c] = past[j];
            }
        }
    }
}
