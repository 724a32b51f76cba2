// op: exp_sum. Weights e^((logit - m) * t), at most 1, in units of 2^-40 rounded down,
// summed as 64 bits over each of `parts` runs of a row's logits, low word first; m is the
// first logit of top, t the row's in the step buffer. A row whose m is not finite sums to 0.
// logits f32 [R, V], rows strided; top u32 [R, k, 2]; sums u32 [R, parts, 2].
// Launch: a workgroup for each (part, row). Exact: every operation on f32 is rounded by
// itself, in the order of sampling::Weigh, and sums are of integers.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer X { float x[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Top { uint top[]; };
layout(set = 0, binding = 2, scalar) writeonly buffer Sums { uint sums[]; };
STEP_BUFFER(3)

layout(push_constant, scalar) uniform Push {
    uint rows;
    // Where the step buffer has the rows' t.
    uint inv_temps;
    // Logits of a row, and of a part.
    uint len, run;
    uint x_at, x_stride;
    uint top_at, top_stride;
    uint sums_at, sums_stride;
} p;

// Logits that a lane loads before it looks at the first.
const uint AHEAD = 4;

shared uvec2 parts[WG];

// 64 bits, low word first.
uvec2 add(uvec2 a, uvec2 b) {
    uint carry;
    const uint low = uaddCarry(a.x, b.x, carry);
    return uvec2(low, a.y + b.y + carry);
}

// Bits of constants: no compiler's decimals come between.
#define LOG2_E uintBitsToFloat(0x3fb8aa3bu)
#define ROUND uintBitsToFloat(0x4b400000u)
#define LN2_HI uintBitsToFloat(0x3f317200u)
#define LN2_LO uintBitsToFloat(0x35bfbe8eu)

uvec2 weight(float logit, float m, float t) {
    precise float d = logit - m;
    precise float y = d * t;
    if (y > 0.0) y = 0.0;
    if (!(y > -87.0)) return uvec2(0);
    precise float scaled = y * LOG2_E;
    precise float shifted = scaled + ROUND;
    precise float n = shifted - ROUND;
    precise float high_part = n * LN2_HI;
    precise float low_part = n * LN2_LO;
    precise float near = y - high_part;
    precise float r = near - low_part;
    precise float e = uintBitsToFloat(0x39500d01u);
    const uint TERMS[7] = uint[](0x3ab60b61u, 0x3c088889u, 0x3d2aaaabu, 0x3e2aaaabu, 0x3f000000u, 0x3f800000u, 0x3f800000u);
    [[unroll]] for (uint i = 0; i < 7; ++i) {
        precise float term = e * r;
        e = term + uintBitsToFloat(TERMS[i]);
    }
    const uint exponent = floatBitsToUint(shifted) - floatBitsToUint(ROUND) + 127u;
    // Powers of two and what they leave are exact.
    precise float w = e * uintBitsToFloat(exponent << 23);
    precise float whole = w * 1048576.0;
    const uint high = uint(whole);
    precise float rest = whole - float(high);
    const uint low = uint(rest * 1048576.0);
    return uvec2((high << 20) | low, high >> 12);
}

void main() {
    const uint r = gl_WorkGroupID.y, part = gl_WorkGroupID.x;
    if (r >= REAL_ROWS(p.rows)) return;
    const uint lane = gl_LocalInvocationID.x;
    const uint bits = top[p.top_at + r * p.top_stride + 1];
    const float m = uintBitsToFloat(bits), t = uintBitsToFloat(meta[p.inv_temps + r]);
    const uint end = min((part + 1) * p.run, p.len);
    const bool finite = (bits & 0x7fffffffu) < 0x7f800000u;
    uvec2 sum = uvec2(0);
    for (uint i = part * p.run + lane; finite && i < end; i += AHEAD * WG) {
        float v[AHEAD];
        [[unroll]] for (uint n = 0; n < AHEAD; ++n) {
            v[n] = x[p.x_at + r * p.x_stride + min(i + n * WG, end - 1)];
        }
        [[unroll]] for (uint n = 0; n < AHEAD; ++n) {
            const uvec2 w = weight(v[n], m, t);
            sum = add(sum, i + n * WG < end ? w : uvec2(0));
        }
    }
    parts[lane] = sum;
    for (uint n = WG; n > 1;) {
        const uint half_n = (n + 1) / 2;
        barrier();
        if (lane < n / 2) parts[lane] = add(parts[lane], parts[lane + half_n]);
        n = half_n;
    }
    if (lane == 0) {
        const uint at = p.sums_at + r * p.sums_stride + 2 * part;
        sums[at] = parts[0].x;
        sums[at + 1] = parts[0].y;
    }
}
