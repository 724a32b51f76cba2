// The schemes of mma16 beside those of `quant.cuh`: numbers of fewer bits, out of a table,
// above a least number. Each number comes out as scale · q + low with a whole q that f16
// holds, SUB columns sharing scale and low; `lows` are those of the SUBs whose scales
// `pair` gives, where there are any (LOWS).
#pragma once
#include "quant.cuh"

// Where the number of a row's column lies.
struct Place {
    u32 tile, word, lane, field, half;
};
template <int SUB>
DEVICE Place place_of(u32 row, u32 k) {
    const u32 own = SUB / 4, i = k % SUB;
    Place p;
    p.tile = k / 64;
    p.word = k % 64 / SUB * (SUB / 16) + i % own / 4;
    p.lane = row % 8 * 4 + i / own;
    p.field = i % 4 / 2 * 2 + row / 8;
    p.half = i % 2;
    return p;
}
DEVICE u32 nibble_at(const u8* low, const Place& p) {
    return ((const u32*)low)[p.tile * 128 + p.lane * 4 + p.word] >> (4 * p.field + 16 * p.half) & 15;
}
DEVICE u32 two_bits_at(const u8* low, const Place& p) {
    return ((const u32*)low)[p.tile * 64 + p.lane * 2 + p.word / 2] >> (16 * p.half + 2 * (p.word % 2 * 4 + p.field)) & 3;
}
DEVICE u32 high_bit_at(const u8* high, const Place& p) {
    return ((const u32*)high)[p.tile * 32 + p.lane] >> (16 * p.half + 4 * p.word + p.field) & 1;
}
// Byte or half of a row's block of 32, or of its 16 where a tile has four.
DEVICE u32 block_of(u32 row, u32 k) { return k / 64 * 32 + row % 8 * 4 + row / 8 * 2 + k % 64 / 32; }
DEVICE u32 half_block_of(u32 row, u32 k) { return k / 64 * 64 + row % 8 * 8 + row / 8 * 4 + k % 64 / 16; }
DEVICE u32 row_of(u32 row) { return row % 8 * 2 + row / 8; }

// Scale and least number of each block, f16.
struct ScaleAndLow {
    uint4 s;
};
DEVICE void load_scale_and_low(ScaleAndLow& s, const u8* at, u32 tile, u32 g) { s.s = load_stream(at + tile * 128 + g * 16); }
DEVICE void scales_of(const ScaleAndLow& s, float (&a)[2], float (&b)[2]) {
    a[0] = low_f16(s.s.x);
    a[1] = low_f16(s.s.y);
    b[0] = low_f16(s.s.z);
    b[1] = low_f16(s.s.w);
}
DEVICE void lows_of(const ScaleAndLow& s, float (&a)[2], float (&b)[2]) {
    a[0] = high_f16(s.s.x);
    a[1] = high_f16(s.s.y);
    b[0] = high_f16(s.s.z);
    b[1] = high_f16(s.s.w);
}

struct q4_1_t {
    enum { CHUNK = 2560, SUB = 32, MINS = 0, WHOLE = 0, LOWS = 1 };
    typedef q4_0_t::Bits Bits;
    typedef ScaleAndLow Side;
    DEVICE void load_bits(Bits& b, const u8* at, u32 tile, u32 lane) { q4_0_t::load_bits(b, at, tile, lane); }
    DEVICE void load_side(Side& s, const u8* at, u32 tile, u32 g) { load_scale_and_low(s, at + 2048, tile, g); }
    DEVICE void plain_word(const Bits& b, int i, u32 (&a)[4]) { q4_k_t::plain_word(b, i, a); }
    DEVICE void pair(const Side& s, int, float (&a)[2], float (&b)[2]) { scales_of(s, a, b); }
    DEVICE void lows(const Side& s, int, float (&a)[2], float (&b)[2]) { lows_of(s, a, b); }
    DEVICE float element(const u8* at, u32 row, u32 k) {
        const u16* s = (const u16*)(at + 2048) + 2 * block_of(row, k);
        const float q = (float)nibble_at(at, place_of<32>(row, k));
        return __fadd_rn(__fmul_rn(from_f16(s[0]), q), from_f16(s[1]));
    }
};

struct q5_0_t {
    enum { CHUNK = 2816, SUB = 32, MINS = 0, WHOLE = 0, LOWS = 0 };
    typedef q5_k_t::Bits Bits;
    typedef q4_0_t::Side Side;
    DEVICE void load_bits(Bits& b, const u8* at, u32 tile, u32 lane) { q5_k_t::load_bits(b, at, tile, lane); }
    DEVICE void load_side(Side& s, const u8* at, u32 tile, u32 g) { q4_0_t::load_side(s, at + 512, tile, g); }
    DEVICE void plain_word(const Bits& b, int i, u32 (&a)[4]) {
        q5_k_t::raised(b, i, a);
        // 1024 + 16 and 64 + 16.
        a[0] = sub_f16x2(a[0], 0x64106410u);
        a[1] = fma_f16x2(a[1], F16_SIXTEENTH, 0xd500d500u);
        a[2] = sub_f16x2(a[2], 0x64106410u);
        a[3] = fma_f16x2(a[3], F16_SIXTEENTH, 0xd500d500u);
    }
    DEVICE void pair(const Side& s, int i, float (&a)[2], float (&b)[2]) { q4_0_t::pair(s, i, a, b); }
    DEVICE float element(const u8* at, u32 row, u32 k) {
        const Place p = place_of<32>(row, k);
        const u32 q = nibble_at(at, p) | high_bit_at(at + 2048, p) << 4;
        return from_f16(((const u16*)(at + 2560))[block_of(row, k)]) * ((float)q - 16.0f);
    }
};

struct q5_1_t {
    enum { CHUNK = 3072, SUB = 32, MINS = 0, WHOLE = 0, LOWS = 1 };
    typedef q5_k_t::Bits Bits;
    typedef ScaleAndLow Side;
    DEVICE void load_bits(Bits& b, const u8* at, u32 tile, u32 lane) { q5_k_t::load_bits(b, at, tile, lane); }
    DEVICE void load_side(Side& s, const u8* at, u32 tile, u32 g) { load_scale_and_low(s, at + 2560, tile, g); }
    DEVICE void plain_word(const Bits& b, int i, u32 (&a)[4]) { q5_k_t::plain_word(b, i, a); }
    DEVICE void pair(const Side& s, int, float (&a)[2], float (&b)[2]) { scales_of(s, a, b); }
    DEVICE void lows(const Side& s, int, float (&a)[2], float (&b)[2]) { lows_of(s, a, b); }
    DEVICE float element(const u8* at, u32 row, u32 k) {
        const Place p = place_of<32>(row, k);
        const u16* s = (const u16*)(at + 2560) + 2 * block_of(row, k);
        const float q = (float)(nibble_at(at, p) | high_bit_at(at + 2048, p) << 4);
        return __fadd_rn(__fmul_rn(from_f16(s[0]), q), from_f16(s[1]));
    }
};

// The 16 levels of iq4, plus 128: they lie closer together around zero.
#define IQ4_0 0x3f2d1801u
#define IQ4_4 0x766a5d4fu
#define IQ4_8 0xa6998d81u
#define IQ4_C 0xf1d9c5b5u

struct iq4_nl_t {
    enum { CHUNK = 2304, SUB = 32, MINS = 0, WHOLE = 0, LOWS = 0 };
    typedef q4_0_t::Bits Bits;
    typedef q4_0_t::Side Side;
    DEVICE void load_bits(Bits& b, const u8* at, u32 tile, u32 lane) { q4_0_t::load_bits(b, at, tile, lane); }
    DEVICE void load_side(Side& s, const u8* at, u32 tile, u32 g) { q4_0_t::load_side(s, at, tile, g); }
    // The levels, a byte each, of the four nibbles below: both halves of the table are
    // asked for their three low bits, the fourth says which of them to take.
    DEVICE u32 levels(u32 w) {
        const u32 low = w & 0x7777u;
        const u32 a = __byte_perm(IQ4_0, IQ4_4, low), b = __byte_perm(IQ4_8, IQ4_C, low);
        return __byte_perm(a, b, (w & 0x8888u) >> 1 | 0x3210u);
    }
    DEVICE void plain_word(const Bits& b, int i, u32 (&a)[4]) {
        const u32 w = word_of(b.q, i), low = levels(w), high = levels(w >> 16);
#pragma unroll
        for (int f = 0; f < 4; ++f) {
            a[f] = sub_f16x2(and_or(__byte_perm(low, high, 0x4400 + 0x1111 * f), 0x00ff00ffu, F16_1024), 0x64806480u);
        }
    }
    DEVICE void pair(const Side& s, int i, float (&a)[2], float (&b)[2]) { q4_0_t::pair(s, i, a, b); }
    DEVICE float level(u32 q) {
        const u32 four = q < 8 ? (q < 4 ? IQ4_0 : IQ4_4) : (q < 12 ? IQ4_8 : IQ4_C);
        return (float)(four >> (8 * (q % 4)) & 255) - 128.0f;
    }
    DEVICE float element(const u8* at, u32 row, u32 k) {
        return from_f16(((const u16*)(at + 2048))[block_of(row, k)]) * level(nibble_at(at, place_of<32>(row, k)));
    }
};

struct iq4_xs_t {
    enum { CHUNK = 2208, SUB = 32, MINS = 0, WHOLE = 0, LOWS = 0 };
    typedef q4_0_t::Bits Bits;
    struct Side {
        u32 s, d;
    };
    DEVICE void load_bits(Bits& b, const u8* at, u32 tile, u32 lane) { q4_0_t::load_bits(b, at, tile, lane); }
    DEVICE void load_side(Side& s, const u8* at, u32 tile, u32 g) {
        s.s = *(const u32*)(at + 2048 + tile * 32 + g * 4);
        s.d = *(const u32*)(at + 2176 + g * 4);
    }
    DEVICE void plain_word(const Bits& b, int i, u32 (&a)[4]) { iq4_nl_t::plain_word(b, i, a); }
    DEVICE void pair(const Side& s, int, float (&a)[2], float (&b)[2]) {
        a[0] = low_f16(s.d) * signed_byte_of(s.s, 0);
        a[1] = low_f16(s.d) * signed_byte_of(s.s, 1);
        b[0] = high_f16(s.d) * signed_byte_of(s.s, 2);
        b[1] = high_f16(s.d) * signed_byte_of(s.s, 3);
    }
    DEVICE float element(const u8* at, u32 row, u32 k) {
        const signed char s = ((const signed char*)at)[2048 + block_of(row, k)];
        const float d = from_f16(((const u16*)(at + 2176))[row_of(row)]);
        return d * (float)s * iq4_nl_t::level(nibble_at(at, place_of<32>(row, k)));
    }
};

struct mxfp4_t {
    enum { CHUNK = 2176, SUB = 32, MINS = 0, WHOLE = 0, LOWS = 0 };
    typedef q4_0_t::Bits Bits;
    struct Side {
        u32 e;
    };
    DEVICE void load_bits(Bits& b, const u8* at, u32 tile, u32 lane) { q4_0_t::load_bits(b, at, tile, lane); }
    DEVICE void load_side(Side& s, const u8* at, u32 tile, u32 g) { s.e = *(const u32*)(at + 2048 + tile * 32 + g * 4); }
    // Sign, exponent and mantissa of a nibble stand where an f16 has them, which makes it
    // 2⁻¹⁴ of itself; twice itself is whole.
    DEVICE u32 twice(u32 signs, u32 w) { return mul_f16x2(and_or(w, 0x0e000e00u, signs & 0x80008000u), 0x78007800u); }
    DEVICE void plain_word(const Bits& b, int i, u32 (&a)[4]) {
        const u32 w = word_of(b.q, i);
        a[0] = twice(w << 12, w << 9);
        a[1] = twice(w << 8, w << 5);
        a[2] = twice(w << 4, w << 1);
        a[3] = twice(w, w >> 3);
    }
    // 2^(e − 128), half of what an exponent means; the two smallest are subnormal.
    DEVICE float half_of(u32 e) { return __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23); }
    DEVICE void pair(const Side& s, int, float (&a)[2], float (&b)[2]) {
        a[0] = half_of(s.e & 255);
        a[1] = half_of(s.e >> 8 & 255);
        b[0] = half_of(s.e >> 16 & 255);
        b[1] = half_of(s.e >> 24);
    }
    DEVICE float element(const u8* at, u32 row, u32 k) {
        const u32 q = nibble_at(at, place_of<32>(row, k));
        return half_of(at[2048 + block_of(row, k)]) * low_f16(twice(q << 12, q << 9));
    }
};

struct w4_paro_t {
    enum { CHUNK = 2144, SUB = 32, MINS = 0, WHOLE = 0, LOWS = 0 };
    // `z`: the zero points of rows g and g + 8, bytes.
    struct Bits {
        uint4 q;
        u32 z;
    };
    struct Side {
        u32 s;
    };
    DEVICE void load_bits(Bits& b, const u8* at, u32 tile, u32 lane) {
        b.q = load_stream(at + tile * 512 + lane * 16);
        b.z = *(const u16*)(at + 2112 + tile / 2 * 16 + lane / 4 * 2);
    }
    DEVICE void load_side(Side& s, const u8* at, u32 tile, u32 g) { s.s = *(const u32*)(at + 2048 + tile / 2 * 32 + g * 4); }
    DEVICE void plain_word(const Bits& b, int i, u32 (&a)[4]) {
        // 1024 + z and, of the other row, −(64 + z).
        const u32 less = __byte_perm(b.z, 0x64u, 0x4040);
        const u32 less_16 = sub_f16x2(0x63806380u, __byte_perm(b.z, 0x64u, 0x4141));
        u32 w = word_of(b.q, i);
        a[0] = sub_f16x2(and_or(w, 0x000f000fu, F16_1024), less);
        a[1] = fma_f16x2(and_or(w, 0x00f000f0u, F16_1024), F16_SIXTEENTH, less_16);
        w >>= 8;
        a[2] = sub_f16x2(and_or(w, 0x000f000fu, F16_1024), less);
        a[3] = fma_f16x2(and_or(w, 0x00f000f0u, F16_1024), F16_SIXTEENTH, less_16);
    }
    DEVICE void pair(const Side& s, int, float (&a)[2], float (&b)[2]) {
        a[0] = a[1] = low_f16(s.s);
        b[0] = b[1] = high_f16(s.s);
    }
    DEVICE float element(const u8* at, u32 row, u32 k) {
        const u32 i = k / 128 * 16 + row_of(row);
        const float q = (float)nibble_at(at, place_of<32>(row, k)) - (float)at[2112 + i];
        return q * from_f16(((const u16*)(at + 2048))[i]);
    }
};

struct q2_k_t {
    enum { CHUNK = 1344, SUB = 16, MINS = 0, WHOLE = 0, LOWS = 1 };
    struct Bits {
        uint2 q;
    };
    // Of each 16 a scale below and a minimum above, nibbles; their factors.
    struct Side {
        uint2 s, d;
    };
    DEVICE void load_bits(Bits& b, const u8* at, u32 tile, u32 lane) { b.q = load_stream2(at + tile * 256 + lane * 8); }
    DEVICE void load_side(Side& s, const u8* at, u32 tile, u32 g) {
        s.s = load_stream2(at + 1024 + tile * 64 + g * 8);
        s.d = load_stream2(at + 1280 + g * 8);
    }
    DEVICE void plain_word(const Bits& b, int i, u32 (&a)[4]) {
        const u32 w = (i < 2 ? b.q.x : b.q.y) >> (8 * (i % 2));
        a[0] = sub_f16x2(and_or(w, 0x00030003u, F16_1024), F16_1024);
        a[1] = fma_f16x2(and_or(w, 0x000c000cu, F16_1024), 0x34003400u, 0xdc00dc00u);
        a[2] = fma_f16x2(and_or(w, 0x00300030u, F16_1024), F16_SIXTEENTH, 0xd400d400u);
        a[3] = fma_f16x2(and_or(w, 0x00c000c0u, F16_1024), 0x24002400u, 0xcc00cc00u);
    }
    DEVICE void pair(const Side& s, int i, float (&a)[2], float (&b)[2]) {
        const u32 x = s.s.x >> (16 * i), y = s.s.y >> (16 * i);
        a[0] = low_f16(s.d.x) * (float)(x & 15);
        a[1] = low_f16(s.d.x) * (float)(x >> 8 & 15);
        b[0] = low_f16(s.d.y) * (float)(y & 15);
        b[1] = low_f16(s.d.y) * (float)(y >> 8 & 15);
    }
    DEVICE void lows(const Side& s, int i, float (&a)[2], float (&b)[2]) {
        const u32 x = s.s.x >> (16 * i), y = s.s.y >> (16 * i);
        a[0] = high_f16(s.d.x) * -(float)(x >> 4 & 15);
        a[1] = high_f16(s.d.x) * -(float)(x >> 12 & 15);
        b[0] = high_f16(s.d.y) * -(float)(y >> 4 & 15);
        b[1] = high_f16(s.d.y) * -(float)(y >> 12 & 15);
    }
    DEVICE float element(const u8* at, u32 row, u32 k) {
        const u32 s = at[1024 + half_block_of(row, k)];
        const u16* d = (const u16*)(at + 1280) + 2 * row_of(row);
        const float q = (float)two_bits_at(at, place_of<16>(row, k));
        return __fsub_rn(__fmul_rn(from_f16(d[0]) * (float)(s & 15), q), from_f16(d[1]) * (float)(s >> 4));
    }
};

struct q3_k_t {
    enum { CHUNK = 1824, SUB = 16, MINS = 0, WHOLE = 0, LOWS = 0 };
    struct Bits {
        uint2 q;
        u32 h;
    };
    typedef q6_k_t::Side Side;
    DEVICE void load_bits(Bits& b, const u8* at, u32 tile, u32 lane) {
        b.q = load_stream2(at + tile * 256 + lane * 8);
        b.h = *(const u32*)(at + 1024 + tile * 128 + lane * 4);
    }
    DEVICE void load_side(Side& s, const u8* at, u32 tile, u32 g) {
        s.s = load_stream2(at + 1536 + tile * 64 + g * 8);
        s.d = *(const u32*)(at + 1792 + g * 4);
    }
    DEVICE void plain_word(const Bits& b, int i, u32 (&a)[4]) {
        const u32 w = (i < 2 ? b.q.x : b.q.y) >> (8 * (i % 2)), h = b.h >> (4 * i);
        // 1024, 256, 64 and 16, each plus 4.
        a[0] = sub_f16x2(and_or(h << 2, 0x00040004u, and_or(w, 0x00030003u, F16_1024)), 0x64046404u);
        a[1] = fma_f16x2(and_or(h << 3, 0x00100010u, and_or(w, 0x000c000cu, F16_1024)), 0x34003400u, 0xdc10dc10u);
        a[2] = fma_f16x2(and_or(h << 4, 0x00400040u, and_or(w, 0x00300030u, F16_1024)), F16_SIXTEENTH, 0xd440d440u);
        a[3] = fma_f16x2(and_or(h << 5, 0x01000100u, and_or(w, 0x00c000c0u, F16_1024)), 0x24002400u, 0xcd00cd00u);
    }
    DEVICE void pair(const Side& s, int i, float (&a)[2], float (&b)[2]) { q6_k_t::pair(s, i, a, b); }
    DEVICE float element(const u8* at, u32 row, u32 k) {
        const Place p = place_of<16>(row, k);
        const float q = (float)(two_bits_at(at, p) | high_bit_at(at + 1024, p) << 2) - 4.0f;
        const signed char s = ((const signed char*)at)[1536 + half_block_of(row, k)];
        return from_f16(((const u16*)(at + 1792))[row_of(row)]) * (float)s * q;
    }
};
