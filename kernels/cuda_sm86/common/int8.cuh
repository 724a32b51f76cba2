// Caches in int8_kv. A head's elements are codes, one byte each, times a scale in f16.
// Offsets and strides are bytes; the scale of (page, s, head h, token t) is at
// page·page_stride + scales + 2·(h·block + t) from the layer's first code, where `scales`
// are those of keys or of values.
// Included ahead of what includes `cache.cuh`.
#pragma once
#define INT8_KV
#include "cache.cuh"

// Codes less 1152 = 1024 + 128, as f16.
DEVICE u32 without_bias(u32 v) {
    u32 d;
    asm("sub.f16x2 %0, %1, %2;" : "=r"(d) : "r"(v), "r"(0x64806480u));
    return d;
}
// Four codes as f16, exact: 0 and 1, then 2 and 3. A byte under 0x64 is 1024 and the byte.
DEVICE void codes_f16(u32 v, u32& low, u32& high) {
    v ^= 0x80808080u;
    low = without_bias(__byte_perm(v, 0x64646464u, 0x4140));
    high = without_bias(__byte_perm(v, 0x64646464u, 0x4342));
}
// Four codes as f32, exact. A byte under 0x4b0000 is 2²³ and the byte.
DEVICE void codes_f32(u32 v, float* out) {
    v ^= 0x80808080u;
#pragma unroll
    for (u32 i = 0; i < 4; ++i) out[i] = __uint_as_float(__byte_perm(v, 0x4b000000u, 0x7540 + i)) - 8388736.0f;
}

// One over a power of two between 2⁻¹²⁵ and 2¹²⁵.
DEVICE float over_one(float power) { return __uint_as_float(0x7f000000u - __float_as_uint(power)); }

struct int8_kv_t {
    typedef u8 word;
    enum { PIECE = 16 };
    DEVICE float get(u8 w) { return (float)(signed char)w; }
    DEVICE void piece(uint4 v, float* out) {
        codes_f32(v.x, out);
        codes_f32(v.y, out + 4);
        codes_f32(v.z, out + 8);
        codes_f32(v.w, out + 12);
    }

    // The scale of a key or value: of a position with a page.
    DEVICE u16* scale_at(const void* cache, const Pages& c, const u32* table, u32 position, u32 head, bool of_value) {
        const u64 page = (u64)table[position / c.block] * c.page_stride;
        return (u16*)((u8*)cache + page + (of_value ? c.value_scales : c.key_scales)) + head * c.block + position % c.block;
    }

    // The scale of a head whose largest magnitude is `most`. None is so large that its scale has
    // no f16.
    DEVICE u16 scale_of(float most) { return to_f16(fminf(most / 127.0f, 65504.0f)); }
    // To nearest, ties to even. A head of zeros has the scale zero and no other codes.
    DEVICE u32 code_of(float x, float scale) {
        const int n = scale > 0.0f ? __float2int_rn(x / scale) : 0;
        return (u32)min(max(n, -127), 127) & 0xff;
    }
    DEVICE u32 four_of(const float* x, float scale) {
        return code_of(x[0], scale) | code_of(x[1], scale) << 8 | code_of(x[2], scale) << 16 | code_of(x[3], scale) << 24;
    }
};
template <>
struct Scaled<int8_kv_t> {
    enum { ARE = 1 };
};
