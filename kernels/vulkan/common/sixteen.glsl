// Weights of any scheme on their way to cooperative matrices, sixteen at a time,
// rounded to bf16 or (unless TO_BF16) f16.

// Sixteen weights on their way: of blocks half a group, else plain numbers.
struct Sixteen {
    uvec4 codes;
    uint high;
    float scale, low, zero;
    uvec4 plain[4];
};

Sixteen half_of(Group b, bool second) {
    Sixteen s;
    s.codes = b.codes;
    if (CODE_WORDS == 8) {
        if (second) s.codes = b.more;
    } else if (CODE_WORDS == 4) {
        s.codes.xy = second ? b.codes.zw : b.codes.xy;
    } else {
        s.codes.x = second ? b.codes.y : b.codes.x;
    }
    s.high = HIGH_WORDS == 2 ? (second ? b.high.y : b.high.x) : b.high.x >> (second ? 4 : 0);
    s.scale = second ? b.scale.y : b.scale.x;
    s.low = second ? b.low.y : b.low.x;
    s.zero = b.zero;
    return s;
}

#define PLAIN_SIXTEEN(NAME, PIECES)                                            \
    Sixteen NAME(uint e) {                                                     \
        Sixteen s;                                                             \
        uint first = SCHEME == F32 ? e / 4 : e / 8;                            \
        [[unroll]] for (uint i = 0; i < 4; ++i) {                              \
            if (i < 2 || SCHEME == F32) s.plain[i] = PIECES[first + i];        \
        }                                                                      \
        return s;                                                              \
    }
// A whole number below 2²³ as a float, without the slower conversion.
float small_float(uint v) {
    return uintBitsToFloat(0x4b000000u | v) - 8388608.0;
}

// The codes of elements 4q to 4q + 3 as numbers.
vec4 four_numbers(Sixteen s, uint q) {
    uint c;
    if (CODE_WORDS == 8) {
        c = s.codes[q] ^ 0x80808080u;
    } else if (CODE_WORDS == 4) {
        c = (s.codes[q / 2] >> (4 * (q & 1u))) & 0x0f0f0f0fu;
    } else {
        c = (s.codes.x >> (2 * q)) & 0x03030303u;
    }
    if (HIGH_WORDS == 1) {
        c |= ((s.high >> q) & 0x01010101u) << (SCHEME == Q3_K ? 2 : 4);
    } else if (HIGH_WORDS == 2) {
        c |= ((s.high >> (2 * q)) & 0x03030303u) << 4;
    }
    uvec4 v = uvec4(c & 255u, (c >> 8) & 255u, (c >> 16) & 255u, c >> 24);
    if (TABLE) {
        return vec4(table_value(v.x), table_value(v.y), table_value(v.z), table_value(v.w));
    }
    vec4 f = vec4(small_float(v.x), small_float(v.y), small_float(v.z), small_float(v.w));
    return CODE_WORDS == 8 ? f - 128.0 : f;
}

vec4 four_values(Sixteen s, uint q) {
    if (SCHEME == F32) return uintBitsToFloat(s.plain[q]);
    if (!IN_BLOCKS) {
        uvec4 piece = s.plain[q / 2];
        uvec2 two = (q & 1u) == 0 ? piece.xy : piece.zw;
        return vec4(decode16x2(two.x), decode16x2(two.y));
    }
    return s.scale * (four_numbers(s, q) - s.zero) + s.low;
}

uint rounded_pair(float a, float b) {
    uvec2 u = floatBitsToUint(vec2(a, b));
    if (TO_BF16) {
        u += 0x7fffu + ((u >> 16) & 1u);
        return (u.x >> 16) | (u.y & 0xffff0000u);
    }
    // Rounded to nearest beforehand: the conversion may do otherwise.
    u = (u + 0xfffu + ((u >> 13) & 1u)) & ~0x1fffu;
    return packHalf2x16(uintBitsToFloat(u));
}

// Elements 8i to 8i + 7.
uvec4 rounded_eight(Sixteen s, uint i) {
    if (SCHEME == (TO_BF16 ? BF16 : F16)) return s.plain[i];
    vec4 a = four_values(s, 2 * i);
    vec4 b = four_values(s, 2 * i + 1);
    return uvec4(rounded_pair(a.x, a.y), rounded_pair(a.z, a.w), rounded_pair(b.x, b.y), rounded_pair(b.z, b.w));
}
