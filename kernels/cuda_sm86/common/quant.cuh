// Block-quantised weights in the layout mma16; see `layout.rs` for the bytes.
//
// A chunk is 16 rows by 256 columns. Its numbers lie so that a lane's 16-byte
// loads are its fragments of tensor core products: lane 4g + t has rows g and g + 8.
// Numbers become f16 exactly: the bits of a small integer q below those of 1024
// are the f16 number 1024 + q. Scales are applied to the sums, in f32, so a
// product is that of the exact q with x in f16.
#pragma once
#include "mma.cuh"

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
// (a & mask) | b
DEVICE u32 and_or(u32 a, u32 mask, u32 b) {
    u32 d;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(mask), "r"(b));
    return d;
}

#define F16_1024 0x64006400u
#define F16_SIXTEENTH 0x2c002c00u

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

// Every scheme: CHUNK bytes; SUB columns that share a scale; MINS, whether a
// minimum is subtracted; `Raw`, a lane's share of a chunk; `step`, the fragment of
// 16 columns; `scales`, what multiplies the sums of rows g and g + 8.
struct q4_0_t {
    enum { CHUNK = 2304, SUB = 32, MINS = 0 };
    struct Raw {
        uint4 q[4];
        uint2 s[4];
    };
    DEVICE void load(Raw& r, const u8* at, u32 lane) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            r.q[i] = load_stream(at + i * 512 + lane * 16);
            r.s[i] = load_stream2(at + 2048 + i * 64 + (lane >> 2) * 8);
        }
    }
    DEVICE void step(const Raw& r, int tile, int word, u32 (&a)[4]) {
        u32 w = word == 0 ? r.q[tile].x : word == 1 ? r.q[tile].y : word == 2 ? r.q[tile].z : r.q[tile].w;
        // 1024 + 8 and 64 + 8.
        nibbles<0x64086408u, 0xd480d480u>(w, a);
    }
    DEVICE void scales(const Raw& r, int tile, int sub, float (&s)[2], float (&m)[2]) {
        s[0] = sub ? high_f16(r.s[tile].x) : low_f16(r.s[tile].x);
        s[1] = sub ? high_f16(r.s[tile].y) : low_f16(r.s[tile].y);
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
    enum { CHUNK = 4352, SUB = 32, MINS = 0 };
    struct Raw {
        uint4 q[8];
        uint2 s[4];
    };
    DEVICE void load(Raw& r, const u8* at, u32 lane) {
#pragma unroll
        for (int i = 0; i < 8; ++i) r.q[i] = load_stream(at + i * 512 + lane * 16);
#pragma unroll
        for (int i = 0; i < 4; ++i) r.s[i] = load_stream2(at + 4096 + i * 64 + (lane >> 2) * 8);
    }
    DEVICE void step(const Raw& r, int tile, int word, u32 (&a)[4]) {
        const uint4& v = r.q[tile * 2 + word / 2];
        u32 low = word % 2 ? v.z : v.x, high = word % 2 ? v.w : v.y;
        // 1024 + 128.
        a[0] = sub_f16x2(__byte_perm(low, F16_1024, 0x5150), 0x64806480u);
        a[1] = sub_f16x2(__byte_perm(high, F16_1024, 0x5150), 0x64806480u);
        a[2] = sub_f16x2(__byte_perm(low, F16_1024, 0x5352), 0x64806480u);
        a[3] = sub_f16x2(__byte_perm(high, F16_1024, 0x5352), 0x64806480u);
    }
    DEVICE void scales(const Raw& r, int tile, int sub, float (&s)[2], float (&m)[2]) {
        s[0] = sub ? high_f16(r.s[tile].x) : low_f16(r.s[tile].x);
        s[1] = sub ? high_f16(r.s[tile].y) : low_f16(r.s[tile].y);
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
    enum { CHUNK = 2368, SUB = 32, MINS = 1 };
    struct Raw {
        uint4 q[4];
        uint2 s[4];
        uint2 d;
    };
    DEVICE void load(Raw& r, const u8* at, u32 lane) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            r.q[i] = load_stream(at + i * 512 + lane * 16);
            r.s[i] = load_stream2(at + 2048 + i * 64 + (lane >> 2) * 8);
        }
        r.d = load_stream2(at + 2304 + (lane >> 2) * 8);
    }
    DEVICE void step(const Raw& r, int tile, int word, u32 (&a)[4]) {
        u32 w = word == 0 ? r.q[tile].x : word == 1 ? r.q[tile].y : word == 2 ? r.q[tile].z : r.q[tile].w;
        nibbles<0x64006400u, 0xd400d400u>(w, a);
    }
    DEVICE void scales(const Raw& r, int tile, int sub, float (&s)[2], float (&m)[2]) {
        s[0] = low_f16(r.d.x) * byte_of(r.s[tile].x, 2 * sub);
        m[0] = high_f16(r.d.x) * byte_of(r.s[tile].x, 2 * sub + 1);
        s[1] = low_f16(r.d.y) * byte_of(r.s[tile].y, 2 * sub);
        m[1] = high_f16(r.d.y) * byte_of(r.s[tile].y, 2 * sub + 1);
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
    enum { CHUNK = 2880, SUB = 32, MINS = 1 };
    struct Raw {
        uint4 q[4];
        u32 h[4];
        uint2 s[4];
        uint2 d;
    };
    DEVICE void load(Raw& r, const u8* at, u32 lane) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            r.q[i] = load_stream(at + i * 512 + lane * 16);
            r.h[i] = *(const u32*)(at + 2048 + i * 128 + lane * 4);
            r.s[i] = load_stream2(at + 2560 + i * 64 + (lane >> 2) * 8);
        }
        r.d = load_stream2(at + 2816 + (lane >> 2) * 8);
    }
    DEVICE void step(const Raw& r, int tile, int word, u32 (&a)[4]) {
        u32 w = word == 0 ? r.q[tile].x : word == 1 ? r.q[tile].y : word == 2 ? r.q[tile].z : r.q[tile].w;
        u32 h = r.h[tile] >> (4 * word);
        u32 v = w >> 8;
        a[0] = sub_f16x2(and_or(h << 4, 0x00100010u, and_or(w, 0x000f000fu, F16_1024)), 0x64006400u);
        a[1] = fma_f16x2(and_or(h << 7, 0x01000100u, and_or(w, 0x00f000f0u, F16_1024)), F16_SIXTEENTH, 0xd400d400u);
        a[2] = sub_f16x2(and_or(h << 2, 0x00100010u, and_or(v, 0x000f000fu, F16_1024)), 0x64006400u);
        a[3] = fma_f16x2(and_or(h << 5, 0x01000100u, and_or(v, 0x00f000f0u, F16_1024)), F16_SIXTEENTH, 0xd400d400u);
    }
    DEVICE void scales(const Raw& r, int tile, int sub, float (&s)[2], float (&m)[2]) {
        s[0] = low_f16(r.d.x) * byte_of(r.s[tile].x, 2 * sub);
        m[0] = high_f16(r.d.x) * byte_of(r.s[tile].x, 2 * sub + 1);
        s[1] = low_f16(r.d.y) * byte_of(r.s[tile].y, 2 * sub);
        m[1] = high_f16(r.d.y) * byte_of(r.s[tile].y, 2 * sub + 1);
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
    enum { CHUNK = 3360, SUB = 16, MINS = 0 };
    struct Raw {
        uint4 q[4];
        uint2 h[4];
        uint2 s[4];
        u32 d;
    };
    DEVICE void load(Raw& r, const u8* at, u32 lane) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            r.q[i] = load_stream(at + i * 512 + lane * 16);
            r.h[i] = load_stream2(at + 2048 + i * 256 + lane * 8);
            r.s[i] = load_stream2(at + 3072 + i * 64 + (lane >> 2) * 8);
        }
        r.d = *(const u32*)(at + 3328 + (lane >> 2) * 4);
    }
    DEVICE void step(const Raw& r, int tile, int word, u32 (&a)[4]) {
        u32 w = word == 0 ? r.q[tile].x : word == 1 ? r.q[tile].y : word == 2 ? r.q[tile].z : r.q[tile].w;
        u32 h = (word < 2 ? r.h[tile].x : r.h[tile].y) >> (8 * (word % 2));
        u32 v = w >> 8;
        // 1024 + 32 and 64 + 32.
        a[0] = sub_f16x2(and_or(h << 4, 0x00300030u, and_or(w, 0x000f000fu, F16_1024)), 0x64206420u);
        a[1] = fma_f16x2(and_or(h << 6, 0x03000300u, and_or(w, 0x00f000f0u, F16_1024)), F16_SIXTEENTH, 0xd600d600u);
        a[2] = sub_f16x2(and_or(h, 0x00300030u, and_or(v, 0x000f000fu, F16_1024)), 0x64206420u);
        a[3] = fma_f16x2(and_or(h << 2, 0x03000300u, and_or(v, 0x00f000f0u, F16_1024)), F16_SIXTEENTH, 0xd600d600u);
    }
    DEVICE void scales(const Raw& r, int tile, int sub, float (&s)[2], float (&m)[2]) {
        s[0] = low_f16(r.d) * signed_byte_of(r.s[tile].x, sub);
        s[1] = high_f16(r.d) * signed_byte_of(r.s[tile].y, sub);
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
