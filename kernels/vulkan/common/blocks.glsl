// Block schemes in the layout `grouped` (see `grouped.rs`): a row is the codes of
// all groups of 32 elements, then their further bits, then the scales, padded to
// 16 bytes. Every scheme comes apart into the same thing: an element is
// scale·(code − zero) + low, with one scale and low for each half of a group.

const uint Q8_0 = 3;
const uint Q4_0 = 4;
const uint Q4_1 = 5;
const uint Q5_0 = 6;
const uint Q5_1 = 7;
const uint Q2_K = 8;
const uint Q3_K = 9;
const uint Q4_K = 10;
const uint Q5_K = 11;
const uint Q6_K = 12;
const uint IQ4_NL = 13;
const uint IQ4_XS = 14;
const uint MXFP4 = 15;
const uint W4_PARO = 16;

const bool IN_BLOCKS = SCHEME > BF16;
const bool TWO_BITS = SCHEME == Q2_K || SCHEME == Q3_K;
// Words of a group's codes.
const uint CODE_WORDS = SCHEME == Q8_0 ? 8 : (TWO_BITS ? 2 : 4);
const bool ONE_MORE_BIT = SCHEME == Q5_0 || SCHEME == Q5_1 || SCHEME == Q5_K || SCHEME == Q3_K;
// Words of a group's further bits.
const uint HIGH_WORDS = ONE_MORE_BIT ? 1 : (SCHEME == Q6_K ? 2 : 0);
const bool TABLE = SCHEME == IQ4_NL || SCHEME == IQ4_XS || SCHEME == MXFP4;

struct Group {
    uvec4 codes;
    uvec4 more;
    uvec2 high;
    // Of elements 0 to 15 and 16 to 31.
    vec2 scale;
    vec2 low;
    float zero;
};

const int IQ4_VALUES[16] = int[](-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
const int E2M1_VALUES[16] = int[](0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);

int table_value(uint code) {
    if (SCHEME == MXFP4) {
        return E2M1_VALUES[code];
    }
    return IQ4_VALUES[code];
}

// Half of 2^(e − 127): the values of the table are twice those of E2M1.
float half_exponent(uint e) {
    return uintBitsToFloat(e < 2 ? 0x00200000u << e : (e - 1) << 23);
}

ivec2 signed_bytes(uint pair) {
    return ivec2(bitfieldExtract(int(pair), 0, 8), bitfieldExtract(int(pair), 8, 8));
}

// A group as it lies in memory: what of it shares words with its neighbours is in
// `side` as it is, so that nothing waits for a load until the group is wanted.
struct Raw {
    uvec4 codes;
    uvec4 more;
    uvec2 high;
    uvec4 side;
};

// Half i of an array of words, of which `word` is the one with it.
#define HALF_OF(word, i) (((word) >> (((i) & 1u) * 16u)) & 0xffffu)

Group group_of(Raw r, uint groups, uint g) {
    Group b;
    b.codes = r.codes;
    b.more = r.more;
    b.high = r.high;
    b.low = vec2(0.0);
    b.zero = 0.0;
    uvec4 s = r.side;
    uint i = g & 7u;
    if (SCHEME == Q4_1 || SCHEME == Q5_1) {
        vec2 d = unpackHalf2x16(s.x);
        b.scale = vec2(d.x);
        b.low = vec2(d.y);
    } else if (SCHEME == Q4_K || SCHEME == Q5_K) {
        vec2 d = unpackHalf2x16(s.x);
        uint scale = ((s.y >> (4 * i)) & 15u) | (((s.w >> (2 * i)) & 3u) << 4);
        uint low = ((s.z >> (4 * i)) & 15u) | (((s.w >> (2 * i + 16)) & 3u) << 4);
        b.scale = vec2(d.x * float(scale));
        b.low = vec2(-(d.y * float(low)));
    } else if (SCHEME == Q6_K || SCHEME == Q3_K) {
        float d = unpackHalf2x16(HALF_OF(s.y, groups + g / 8)).x;
        b.scale = d * vec2(signed_bytes(HALF_OF(s.x, g)));
        b.zero = SCHEME == Q6_K ? 32.0 : 4.0;
    } else if (SCHEME == Q2_K) {
        uint both = HALF_OF(s.x, g);
        vec2 d = unpackHalf2x16(s.y);
        b.scale = d.x * vec2(uvec2(both & 15u, (both >> 8) & 15u));
        b.low = -(d.y * vec2(uvec2((both >> 4) & 15u, both >> 12)));
    } else if (SCHEME == IQ4_XS) {
        uint scale = (s.y >> (4 * i)) & 15u;
        scale |= ((s.x >> (16 + 2 * i)) & 3u) << 4;
        b.scale = vec2(unpackHalf2x16(s.x).x * float(int(scale) - 32));
    } else if (SCHEME == MXFP4) {
        b.scale = vec2(half_exponent((s.x >> (8 * (g & 3u))) & 255u));
    } else if (SCHEME == W4_PARO) {
        b.scale = vec2(unpackHalf2x16(s.x).x);
        b.zero = float((s.x >> 16) & 255u);
    } else {
        b.scale = vec2(unpackHalf2x16(HALF_OF(s.x, g)).x);
        b.zero = SCHEME == Q4_0 ? 8.0 : (SCHEME == Q5_0 ? 16.0 : 0.0);
    }
    return b;
}

// Defines NAME(row, groups, g): group g of the row of `groups` groups that begins
// at word `row`; the matrix as words and as pieces of 16 bytes. NAME(r, row, groups, g)
// only loads it.
#define GROUP_READER(NAME, WORDS, PIECES)                                       \
    void NAME(out Raw r, uint row, uint groups, uint g) {                       \
        r.more = uvec4(0);                                                      \
        r.high = uvec2(0);                                                      \
        r.side = uvec4(0);                                                      \
        uint high = row + groups * CODE_WORDS;                                  \
        uint side = high + groups * HIGH_WORDS;                                 \
        if (CODE_WORDS == 8) {                                                  \
            r.codes = PIECES[row / 4 + 2 * g];                                  \
            r.more = PIECES[row / 4 + 2 * g + 1];                               \
        } else if (CODE_WORDS == 4) {                                           \
            r.codes = PIECES[row / 4 + g];                                      \
        } else {                                                                \
            r.codes = uvec4(WORDS[row + 2 * g], WORDS[row + 2 * g + 1], 0, 0);  \
        }                                                                       \
        if (HIGH_WORDS > 0) r.high.x = WORDS[high + HIGH_WORDS * g];            \
        if (HIGH_WORDS > 1) r.high.y = WORDS[high + HIGH_WORDS * g + 1];        \
        if (SCHEME == Q4_1 || SCHEME == Q5_1) {                                 \
            r.side.x = WORDS[side + g];                                         \
        } else if (SCHEME == Q4_K || SCHEME == Q5_K) {                          \
            r.side = PIECES[side / 4 + g / 8];                                  \
        } else if (SCHEME == Q6_K || SCHEME == Q3_K) {                          \
            r.side.x = WORDS[side + g / 2];                                     \
            r.side.y = WORDS[side + (groups + g / 8) / 2];                      \
        } else if (SCHEME == Q2_K) {                                            \
            r.side.x = WORDS[side + g / 2];                                     \
            r.side.y = WORDS[side + groups / 2 + g / 8];                        \
        } else if (SCHEME == IQ4_XS) {                                          \
            r.side.x = WORDS[side + g / 8 * 2];                                 \
            r.side.y = WORDS[side + g / 8 * 2 + 1];                             \
        } else if (SCHEME == MXFP4 || SCHEME == W4_PARO) {                      \
            r.side.x = WORDS[side + g / 4];                                     \
        } else {                                                                \
            r.side.x = WORDS[side + g / 2];                                     \
        }                                                                       \
    }                                                                           \
    Group NAME(uint row, uint groups, uint g) {                                 \
        Raw r;                                                                  \
        NAME(r, row, groups, g);                                                \
        return group_of(r, groups, g);                                          \
    }

// The codes of elements 4q to 4q + 3, a byte each.
uint quad_codes(Group b, uint q) {
    if (CODE_WORDS == 8) {
        return q < 4 ? b.codes[q & 3u] : b.more[q & 3u];
    }
    uint c;
    if (CODE_WORDS == 4) {
        c = (b.codes[q / 2] >> (4 * (q & 1u))) & 0x0f0f0f0fu;
    } else {
        c = (b.codes[q / 4] >> (2 * (q & 3u))) & 0x03030303u;
    }
    if (HIGH_WORDS == 1) {
        c |= ((b.high.x >> q) & 0x01010101u) << (SCHEME == Q3_K ? 2 : 4);
    } else if (HIGH_WORDS == 2) {
        c |= ((b.high[q / 4] >> (2 * (q & 3u))) & 0x03030303u) << 4;
    }
    return c;
}

vec4 quad_numbers(Group b, uint q) {
    uint c = quad_codes(b, q);
    if (CODE_WORDS == 8) {
        int s = int(c);
        return vec4(bitfieldExtract(s, 0, 8), bitfieldExtract(s, 8, 8), bitfieldExtract(s, 16, 8), s >> 24);
    }
    if (TABLE) {
        return vec4(
            table_value(c & 255u), table_value((c >> 8) & 255u), table_value((c >> 16) & 255u), table_value(c >> 24));
    }
    return vec4(uvec4(c & 255u, (c >> 8) & 255u, (c >> 16) & 255u, c >> 24));
}

// Elements 4q to 4q + 3.
vec4 quad_values(Group b, uint q) {
    return b.scale[q / 4] * (quad_numbers(b, q) - b.zero) + b.low[q / 4];
}
