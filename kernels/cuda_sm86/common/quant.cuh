// Block-quantised weights in the layout mma16; see `layout.rs` for the bytes.
//
// A chunk is 16 rows by 256 columns. Its numbers lie so that a lane's 16-byte
// loads are its fragments of tensor core products: lane 4g + t has rows g and g + 8.
// Numbers become f16 exactly: the bits of a small integer q below those of 1024
// are the f16 number 1024 + q. Scales are applied to the sums, in f32, so a
// product is that of the exact q with x in f16.
#pragma once
#include "mma.cuh"

#define F16_1024 0x64006400u
#define F16_SIXTEENTH 0x2c002c00u

DEVICE u32 sub_f16x2(u32 a, u32 b) {
    u32 d;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
DEVICE u32 fma_f16x2(u32 a, u32 b, u32 c) {
    u32 d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
DEVICE u32 mul_f16x2(u32 a, u32 b) {
    u32 d;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
// (a & mask) | b
DEVICE u32 and_or(u32 a, u32 mask, u32 b) {
    u32 d;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(mask), "r"(b));
    return d;
}

DEVICE float low_f16(u32 v) { return from_f16((u16)v); }
DEVICE float high_f16(u32 v) { return from_f16((u16)(v >> 16)); }
// Byte i of v as a number: below the bits of 2²³, whose units it counts.
DEVICE float byte_of(u32 v, int i) {
    return __uint_as_float(__byte_perm(v, 0x4b000000u, 0x7440 + i)) - 8388608.0f;
}
DEVICE float signed_byte_of(u32 v, int i) {
    return __uint_as_float(__byte_perm(v ^ 0x80808080u, 0x4b000000u, 0x7440 + i)) - 8388736.0f;
}

// A nibble of each half: fragment f of a word.
template <u32 LESS, u32 LESS_16>
DEVICE void nibbles(u32 w, u32 (&a)[4]) {
    a[0] = sub_f16x2(and_or(w, 0x000f000fu, F16_1024), LESS);
    a[1] = fma_f16x2(and_or(w, 0x00f000f0u, F16_1024), F16_SIXTEENTH, LESS_16);
    w >>= 8;
    a[2] = sub_f16x2(and_or(w, 0x000f000fu, F16_1024), LESS);
    a[3] = fma_f16x2(and_or(w, 0x00f000f0u, F16_1024), F16_SIXTEENTH, LESS_16);
}

// A lane's word of the four in 16 bytes.
DEVICE u32 word_of(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// Scales that are whole numbers, folded into the fragments: with c = {s, -1024·s} of
// row g and {s/16, -64·s} of row g + 8 a fragment is q·s, exact below 2048.
DEVICE void scaled_nibbles(u32 w, const u32 (&c)[4], u32 (&a)[4]) {
    a[0] = fma_f16x2(and_or(w, 0x000f000fu, F16_1024), c[0], c[1]);
    a[1] = fma_f16x2(and_or(w, 0x00f000f0u, F16_1024), c[2], c[3]);
    w >>= 8;
    a[2] = fma_f16x2(and_or(w, 0x000f000fu, F16_1024), c[0], c[1]);
    a[3] = fma_f16x2(and_or(w, 0x00f000f0u, F16_1024), c[2], c[3]);
}
// c of scale bytes `sub` of the words of rows g and g + 8.
DEVICE void whole_scales(const uint2& s, int sub, u32 (&c)[4]) {
    const u32 pick = sub ? 0x5252 : 0x5050;
    c[0] = sub_f16x2(__byte_perm(s.x, F16_1024, pick), F16_1024);
    c[1] = mul_f16x2(c[0], 0xe400e400u);
    c[2] = mul_f16x2(sub_f16x2(__byte_perm(s.y, F16_1024, pick), F16_1024), F16_SIXTEENTH);
    c[3] = mul_f16x2(c[2], 0xe400e400u);
}
// Two minima of each row as f16, a fragment whose halves repeat.
DEVICE void whole_mins(const uint2& s, u32 (&a)[4]) {
    a[0] = a[2] = sub_f16x2(__byte_perm(s.x, F16_1024, 0x5351), F16_1024);
    a[1] = a[3] = sub_f16x2(__byte_perm(s.y, F16_1024, 0x5351), F16_1024);
}

// Every scheme: CHUNK bytes; SUB columns that share a scale; MINS, whether a
// minimum is subtracted; WHOLE, whether scales are whole numbers with one factor for
// the chunk; LOWS, whether something is added to a number, see `quant_blocks.cuh`. `Bits`, a lane's share of the numbers of a tile of 64 columns; `Side`, its
// scales. `plain_word` gives the fragment of 16 columns, `scaled_word` that times scales
// (in `c` what `whole_scales` gives), `pair` the scales of two neighbouring SUBs of rows
// g and g + 8, `element` one number.
struct q4_0_t {
    enum { CHUNK = 2304, SUB = 32, MINS = 0, WHOLE = 0, LOWS = 0 };
    struct Bits {
        uint4 q;
    };
    struct Side {
        uint2 s;
    };
    DEVICE void load_bits(Bits& b, const u8* at, u32 tile, u32 lane) { b.q = load_stream(at + tile * 512 + lane * 16); }
    DEVICE void load_side(Side& s, const u8* at, u32 tile, u32 g) { s.s = load_stream2(at + 2048 + tile * 64 + g * 8); }
    DEVICE void plain_word(const Bits& b, int i, u32 (&a)[4]) {
        nibbles<0x64086408u, 0xd480d480u>(word_of(b.q, i), a);
    }
    DEVICE void pair(const Side& s, int, float (&a)[2], float (&b)[2]) {
        a[0] = low_f16(s.s.x);
        a[1] = high_f16(s.s.x);
        b[0] = low_f16(s.s.y);
        b[1] = high_f16(s.s.y);
    }
    // Element (row, k) of a chunk.
    DEVICE float element(const u8* at, u32 row, u32 k) {
        u32 tile = k / 64, i = k % 32, word = (k % 64) / 32 * 2 + i % 8 / 4;
        u32 lane = (row % 8) * 4 + i / 8;
        u32 w = ((const u32*)at)[tile * 128 + lane * 4 + word];
        u32 q = w >> (4 * (i % 4 / 2 * 2 + row / 8) + 16 * (i % 2)) & 15;
        u16 d = ((const u16*)(at + 2048))[tile * 32 + (row % 8) * 4 + row / 8 * 2 + (k % 64) / 32];
        return from_f16(d) * ((float)q - 8.0f);
    }
};

struct q8_0_t {
    enum { CHUNK = 4352, SUB = 32, MINS = 0, WHOLE = 0, LOWS = 0 };
    struct Bits {
        uint4 q[2];
    };
    typedef q4_0_t::Side Side;
    DEVICE void load_bits(Bits& b, const u8* at, u32 tile, u32 lane) {
        b.q[0] = load_stream(at + tile * 1024 + lane * 16);
        b.q[1] = load_stream(at + tile * 1024 + 512 + lane * 16);
    }
    DEVICE void load_side(Side& s, const u8* at, u32 tile, u32 g) { s.s = load_stream2(at + 4096 + tile * 64 + g * 8); }
    DEVICE void plain_word(const Bits& b, int i, u32 (&a)[4]) { bytes(b.q[i / 2], i, a); }
    DEVICE void pair(const Side& s, int i, float (&a)[2], float (&b)[2]) { q4_0_t::pair(s, i, a, b); }
    DEVICE void bytes(const uint4& v, int word, u32 (&a)[4]) {
        u32 low = word % 2 ? v.z : v.x, high = word % 2 ? v.w : v.y;
        // 1024 + 128.
        a[0] = sub_f16x2(__byte_perm(low, F16_1024, 0x5150), 0x64806480u);
        a[1] = sub_f16x2(__byte_perm(high, F16_1024, 0x5150), 0x64806480u);
        a[2] = sub_f16x2(__byte_perm(low, F16_1024, 0x5352), 0x64806480u);
        a[3] = sub_f16x2(__byte_perm(high, F16_1024, 0x5352), 0x64806480u);
    }
    DEVICE float element(const u8* at, u32 row, u32 k) {
        u32 i = k % 32;
        u32 lane = (row % 8) * 4 + i / 8;
        u8 q = at[k / 32 * 512 + lane * 16 + (i % 8 / 4 * 2 + row / 8) * 4 + i % 4];
        u16 d = ((const u16*)(at + 4096))[k / 64 * 32 + (row % 8) * 4 + row / 8 * 2 + (k % 64) / 32];
        return from_f16(d) * ((float)q - 128.0f);
    }
};

struct q4_k_t {
    enum { CHUNK = 2368, SUB = 32, MINS = 1, WHOLE = 1, LOWS = 0 };
    typedef q4_0_t::Bits Bits;
    struct Side {
        uint2 s, d;
    };
    DEVICE void load_bits(Bits& b, const u8* at, u32 tile, u32 lane) { q4_0_t::load_bits(b, at, tile, lane); }
    DEVICE void load_side(Side& s, const u8* at, u32 tile, u32 g) {
        s.s = load_stream2(at + 2048 + tile * 64 + g * 8);
        s.d = load_stream2(at + 2304 + g * 8);
    }
    DEVICE void scaled_word(const Bits& b, int i, const u32 (&c)[4], u32 (&a)[4]) {
        scaled_nibbles(word_of(b.q, i), c, a);
    }
    DEVICE void plain_word(const Bits& b, int i, u32 (&a)[4]) {
        nibbles<0x64006400u, 0xd400d400u>(word_of(b.q, i), a);
    }
    DEVICE void pair(const Side& s, int, float (&a)[2], float (&b)[2]) {
        a[0] = byte_of(s.s.x, 0);
        a[1] = byte_of(s.s.x, 2);
        b[0] = byte_of(s.s.y, 0);
        b[1] = byte_of(s.s.y, 2);
    }
    DEVICE void pair_mins(const Side& s, float (&a)[2], float (&b)[2]) {
        a[0] = byte_of(s.s.x, 1);
        a[1] = byte_of(s.s.x, 3);
        b[0] = byte_of(s.s.y, 1);
        b[1] = byte_of(s.s.y, 3);
    }
    // Factors of scales and of minima, rows g and g + 8.
    DEVICE void factors(const Side& s, float (&d)[2], float (&m)[2]) {
        d[0] = low_f16(s.d.x);
        m[0] = high_f16(s.d.x);
        d[1] = low_f16(s.d.y);
        m[1] = high_f16(s.d.y);
    }
    DEVICE float element(const u8* at, u32 row, u32 k) {
        u32 tile = k / 64, sub = k % 64 / 32, i = k % 32;
        u32 lane = (row % 8) * 4 + i / 8;
        u32 w = ((const u32*)at)[tile * 128 + lane * 4 + sub * 2 + i % 8 / 4];
        u32 q = w >> (4 * (i % 4 / 2 * 2 + row / 8) + 16 * (i % 2)) & 15;
        const u8* s = at + 2048 + tile * 64 + (row % 8) * 8 + row / 8 * 4 + sub * 2;
        const u16* d = (const u16*)(at + 2304) + (row % 8) * 4 + row / 8 * 2;
        return from_f16(d[0]) * (float)s[0] * (float)q - from_f16(d[1]) * (float)s[1];
    }
};

struct q5_k_t {
    enum { CHUNK = 2880, SUB = 32, MINS = 1, WHOLE = 1, LOWS = 0 };
    struct Bits {
        uint4 q;
        u32 h;
    };
    typedef q4_k_t::Side Side;
    DEVICE void load_bits(Bits& b, const u8* at, u32 tile, u32 lane) {
        b.q = load_stream(at + tile * 512 + lane * 16);
        b.h = *(const u32*)(at + 2048 + tile * 128 + lane * 4);
    }
    DEVICE void load_side(Side& s, const u8* at, u32 tile, u32 g) {
        s.s = load_stream2(at + 2560 + tile * 64 + g * 8);
        s.d = load_stream2(at + 2816 + g * 8);
    }
    // Numbers above those of 1024 in a[0] and a[2], 16 times so in a[1] and a[3].
    DEVICE void raised(const Bits& b, int i, u32 (&a)[4]) {
        const u32 w = word_of(b.q, i), h = b.h >> (4 * i), v = w >> 8;
        a[0] = and_or(h << 4, 0x00100010u, and_or(w, 0x000f000fu, F16_1024));
        a[1] = and_or(h << 7, 0x01000100u, and_or(w, 0x00f000f0u, F16_1024));
        a[2] = and_or(h << 2, 0x00100010u, and_or(v, 0x000f000fu, F16_1024));
        a[3] = and_or(h << 5, 0x01000100u, and_or(v, 0x00f000f0u, F16_1024));
    }
    DEVICE void scaled_word(const Bits& b, int i, const u32 (&c)[4], u32 (&a)[4]) {
        raised(b, i, a);
        a[0] = fma_f16x2(a[0], c[0], c[1]);
        a[1] = fma_f16x2(a[1], c[2], c[3]);
        a[2] = fma_f16x2(a[2], c[0], c[1]);
        a[3] = fma_f16x2(a[3], c[2], c[3]);
    }
    DEVICE void plain_word(const Bits& b, int i, u32 (&a)[4]) {
        raised(b, i, a);
        a[0] = sub_f16x2(a[0], F16_1024);
        a[1] = fma_f16x2(a[1], F16_SIXTEENTH, 0xd400d400u);
        a[2] = sub_f16x2(a[2], F16_1024);
        a[3] = fma_f16x2(a[3], F16_SIXTEENTH, 0xd400d400u);
    }
    DEVICE void pair(const Side& s, int, float (&a)[2], float (&b)[2]) {
        a[0] = byte_of(s.s.x, 0);
        a[1] = byte_of(s.s.x, 2);
        b[0] = byte_of(s.s.y, 0);
        b[1] = byte_of(s.s.y, 2);
    }
    DEVICE void pair_mins(const Side& s, float (&a)[2], float (&b)[2]) {
        a[0] = byte_of(s.s.x, 1);
        a[1] = byte_of(s.s.x, 3);
        b[0] = byte_of(s.s.y, 1);
        b[1] = byte_of(s.s.y, 3);
    }
    // Factors of scales and of minima, rows g and g + 8.
    DEVICE void factors(const Side& s, float (&d)[2], float (&m)[2]) {
        d[0] = low_f16(s.d.x);
        m[0] = high_f16(s.d.x);
        d[1] = low_f16(s.d.y);
        m[1] = high_f16(s.d.y);
    }
    DEVICE float element(const u8* at, u32 row, u32 k) {
        u32 tile = k / 64, sub = k % 64 / 32, i = k % 32, word = sub * 2 + i % 8 / 4;
        u32 lane = (row % 8) * 4 + i / 8, f = i % 4 / 2 * 2 + row / 8;
        u32 w = ((const u32*)at)[tile * 128 + lane * 4 + word];
        u32 h = ((const u32*)(at + 2048))[tile * 32 + lane];
        u32 q = (w >> (4 * f + 16 * (i % 2)) & 15) | (h >> (16 * (i % 2) + 4 * word + f) & 1) << 4;
        const u8* s = at + 2560 + tile * 64 + (row % 8) * 8 + row / 8 * 4 + sub * 2;
        const u16* d = (const u16*)(at + 2816) + (row % 8) * 4 + row / 8 * 2;
        return from_f16(d[0]) * (float)s[0] * (float)q - from_f16(d[1]) * (float)s[1];
    }
};

struct q6_k_t {
    enum { CHUNK = 3360, SUB = 16, MINS = 0, WHOLE = 0, LOWS = 0 };
    struct Bits {
        uint4 q;
        uint2 h;
    };
    struct Side {
        uint2 s;
        u32 d;
    };
    DEVICE void load_bits(Bits& b, const u8* at, u32 tile, u32 lane) {
        b.q = load_stream(at + tile * 512 + lane * 16);
        b.h = load_stream2(at + 2048 + tile * 256 + lane * 8);
    }
    DEVICE void load_side(Side& s, const u8* at, u32 tile, u32 g) {
        s.s = load_stream2(at + 3072 + tile * 64 + g * 8);
        s.d = *(const u32*)(at + 3328 + g * 4);
    }
    DEVICE void plain_word(const Bits& b, int i, u32 (&a)[4]) {
        const u32 w = word_of(b.q, i), h = (i < 2 ? b.h.x : b.h.y) >> (8 * (i % 2)), v = w >> 8;
        // 1024 + 32 and 64 + 32.
        a[0] = sub_f16x2(and_or(h << 4, 0x00300030u, and_or(w, 0x000f000fu, F16_1024)), 0x64206420u);
        a[1] = fma_f16x2(and_or(h << 6, 0x03000300u, and_or(w, 0x00f000f0u, F16_1024)), F16_SIXTEENTH, 0xd600d600u);
        a[2] = sub_f16x2(and_or(h, 0x00300030u, and_or(v, 0x000f000fu, F16_1024)), 0x64206420u);
        a[3] = fma_f16x2(and_or(h << 2, 0x03000300u, and_or(v, 0x00f000f0u, F16_1024)), F16_SIXTEENTH, 0xd600d600u);
    }
    // `i`: the first two of the tile's four or the last.
    DEVICE void pair(const Side& s, int i, float (&a)[2], float (&b)[2]) {
        const float d = low_f16(s.d), e = high_f16(s.d);
        const u32 x = s.s.x >> (16 * i), y = s.s.y >> (16 * i);
        a[0] = d * signed_byte_of(x, 0);
        a[1] = d * signed_byte_of(x, 1);
        b[0] = e * signed_byte_of(y, 0);
        b[1] = e * signed_byte_of(y, 1);
    }
    DEVICE float element(const u8* at, u32 row, u32 k) {
        u32 tile = k / 64, sub = k % 64 / 16, i = k % 16;
        u32 lane = (row % 8) * 4 + i / 4, f = i % 4 / 2 * 2 + row / 8;
        u32 w = ((const u32*)at)[tile * 128 + lane * 4 + sub];
        u32 h = ((const u32*)(at + 2048))[tile * 64 + lane * 2 + sub / 2];
        u32 q = (w >> (4 * f + 16 * (i % 2)) & 15) | (h >> (16 * (i % 2) + 2 * (sub % 2 * 4 + f)) & 3) << 4;
        signed char s = ((const signed char*)at)[3072 + tile * 64 + (row % 8) * 8 + row / 8 * 4 + sub];
        u16 d = ((const u16*)(at + 3328))[(row % 8) * 2 + row / 8];
        return from_f16(d) * (float)s * ((float)q - 32.0f);
    }
};

// Eight numbers of x, their f16, the sum of those.
DEVICE void load8(float (&v)[8], const float* x, bool aligned) {
    if (aligned) {
        const float4 a = *(const float4*)x, b = *(const float4*)(x + 4);
        v[0] = a.x; v[1] = a.y; v[2] = a.z; v[3] = a.w;
        v[4] = b.x; v[5] = b.y; v[6] = b.z; v[7] = b.w;
    } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) v[i] = x[i];
    }
}
DEVICE uint4 rounded8(const float (&v)[8]) {
    return make_uint4(to_f16x2(v[0], v[1]), to_f16x2(v[2], v[3]), to_f16x2(v[4], v[5]), to_f16x2(v[6], v[7]));
}
DEVICE float sum8(const uint4& h) {
    return ((low_f16(h.x) + high_f16(h.x)) + (low_f16(h.y) + high_f16(h.y))) +
           ((low_f16(h.z) + high_f16(h.z)) + (low_f16(h.w) + high_f16(h.w)));
}
DEVICE float quad_sum(float e) {
    e += __shfl_xor_sync(0xffffffffu, e, 1);
    return e + __shfl_xor_sync(0xffffffffu, e, 2);
}
// A fragment of ones: its product with x is the sum of x for every row.
DEVICE void ones(float (&d)[4], u32 b0, u32 b1) {
    const u32 a[4] = {0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u};
    mma(d, a, b0, b1, f16_t());
}
