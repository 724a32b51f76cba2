// Products of block schemes with activations rounded to int8, one scale for each
// 32 elements (act q8_32). A workgroup rounds ROWS rows of x into shared memory;
// its teams then multiply bytes, four at a time. Sums of bytes are exact.
//
// Weights come from far: the first of them are asked for before x is rounded, and
// AHEAD groups of a row at once.
//
// The shader declares x and x4 over the activations, p with k and aligned, and
// X_ROW(j) as `gemv.glsl` wants it.

#extension GL_EXT_integer_dot_product : require

// Room for a row: K or more.
layout(constant_id = 8) const uint WIDTH = 256;
const uint WIDTH_GROUPS = WIDTH / 32;
layout(constant_id = 9) const uint AHEAD = 1;

// Whether elements are more than scale·code.
const bool HAS_REST = SCHEME != Q8_0 && !TABLE;

// Of each group 32 bytes, then its scale and scale·Σ of both halves. Three pieces
// for each, so that neighbouring lanes meet different banks.
shared uvec4 rounded[ROWS * WIDTH_GROUPS * 3];

#include "divide.glsl"

int dot_bytes(uint a, uint b) {
    return dotPacked4x8EXT(int(a), int(b));
}

uint max_of(uvec4 v) {
    return max(max(v.x, v.y), max(v.z, v.w));
}

// The place of quad q of row j: a word of pieces 0 and 1 of its group.
uint group_place(uint j, uint g) {
    return (j * WIDTH_GROUPS + g) * 3;
}

#define QUAD_WORD(j, q) rounded[group_place(j, (q) / 8) + ((q) & 7u) / 4][(q) & 3u]

// For each j and q of the rows' quads, divided among the lanes.
#define EACH(j, q, COUNT)                                                         \
    for (uint i = gl_LocalInvocationID.x, j = 0, q = 0; i < ROWS * (COUNT); i += WG) \
        if (j = ROWS == 1 ? 0 : i / (COUNT), q = i - j * (COUNT), true)

#ifndef RAW_QUAD
#define RAW_QUAD(v, j, q)                                                         \
    vec4 v;                                                                       \
    if (p.aligned != 0) v = X_ALIGNED(j, q);                                      \
    else v = X_SINGLE(j, q);
#endif

// Elements of a row.
#ifndef ROW_LENGTH
#define ROW_LENGTH p.k
#endif

// What is done to a quad of x before it is rounded.
#ifndef PREPARED
#define PREPARED(v, j, q)
#endif

#define LOAD_QUAD(v, j, q) \
    RAW_QUAD(v, j, q)      \
    PREPARED(v, j, q)

// First the largest of each quad, then scales, then bytes, then sums: neighbouring
// lanes load neighbouring quads.
#define ROUND_X()                                                                 \
    EACH(j, q, ROW_LENGTH / 4) {                                                         \
        LOAD_QUAD(v, j, q)                                                        \
        QUAD_WORD(j, q) = max_of(floatBitsToUint(abs(v)));                        \
    }                                                                             \
    workgroup_sync();                                                             \
    EACH(j, g, ROW_LENGTH / 32) {                                                        \
        uint at = group_place(j, g);                                              \
        uint top = max_of(max(rounded[at], rounded[at + 1]));                     \
        float scale = divide(uintBitsToFloat(top), 127.0);                        \
        float inverse = scale >= 1.17549435e-38 ? divide(1.0, scale) : 0.0;       \
        rounded[at + 2] = uvec4(floatBitsToUint(vec2(scale, inverse)), 0, 0);     \
    }                                                                             \
    workgroup_sync();                                                             \
    EACH(j, q, ROW_LENGTH / 4) {                                                         \
        LOAD_QUAD(v, j, q)                                                        \
        float inverse = uintBitsToFloat(rounded[group_place(j, q / 8) + 2].y);    \
        uvec4 u = uvec4(ivec4(roundEven(v * inverse))) & 255u;                    \
        QUAD_WORD(j, q) = u.x | (u.y << 8) | (u.z << 16) | (u.w << 24);           \
    }                                                                             \
    workgroup_sync();                                                             \
    if (HAS_REST) {                                                               \
        EACH(j, g, ROW_LENGTH / 32) {                                                    \
            uint at = group_place(j, g);                                          \
            float scale = uintBitsToFloat(rounded[at + 2].x);                     \
            vec2 s = scale * vec2(sum_of(rounded[at]), sum_of(rounded[at + 1]));  \
            rounded[at + 2].yz = floatBitsToUint(s);                              \
        }                                                                         \
        workgroup_sync();                                                         \
    }

int sum_of(uvec4 bytes) {
    const uint ones = 0x01010101u;
    return dot_bytes(bytes.x, ones) + dot_bytes(bytes.y, ones) + dot_bytes(bytes.z, ones) + dot_bytes(bytes.w, ones);
}

// The codes of a quad as signed bytes: all but q8_0's and the tables' are below 64.
uint quad_bytes(Group b, uint q) {
    uint c = quad_codes(b, q);
    if (TABLE) {
        uvec4 t = uvec4(
            table_value(c & 255u), table_value((c >> 8) & 255u), table_value((c >> 16) & 255u), table_value(c >> 24));
        t &= 255u;
        c = t.x | (t.y << 8) | (t.z << 16) | (t.w << 24);
    }
    return c;
}

// b[i * COLS + c] = group from + i * TEAM + lane of the weight row that begins at ROW(c).
#define FETCH_ONE(b, READ, ROW, i, from)                                          \
    [[unroll]] for (uint c = 0; c < COLS; ++c) {                                  \
        uint g = min((from) + i * TEAM + lane, p.k / 32 - 1);                     \
        READ(b[i * COLS + c], ROW(c), p.k / 32, g);                               \
    }

#define FETCH(b, READ, ROW, from) \
    [[unroll]] for (uint i = 0; i < AHEAD; ++i) FETCH_ONE(b, READ, ROW, i, from)

// Adds the products of what `FETCH` loaded: acc[c * ROWS + j] is this lane's share of
// x[j]·w[c].
#define MULTIPLY_ONE(acc, b, i, from)                                             \
    {                                                                             \
        uint g = (from) + i * TEAM + lane;                                        \
        [[unroll]] for (uint c = 0; c < COLS; ++c) {                              \
            if (g >= p.k / 32) continue;                                          \
            Group w = group_of(b[i * COLS + c], p.k / 32, g);                     \
            uint code[8];                                                         \
            [[unroll]] for (uint q = 0; q < 8; ++q) code[q] = quad_bytes(w, q);   \
            vec2 rest = w.low - w.scale * w.zero;                                 \
            for (uint j = 0; j < ROWS; ++j) {                                     \
                uint at = group_place(j, g);                                      \
                uvec4 lo = rounded[at];                                           \
                uvec4 hi = rounded[at + 1];                                       \
                vec3 s = uintBitsToFloat(rounded[at + 2].xyz);                    \
                int a = dot_bytes(code[0], lo.x) + dot_bytes(code[1], lo.y)       \
                    + dot_bytes(code[2], lo.z) + dot_bytes(code[3], lo.w);        \
                int z = dot_bytes(code[4], hi.x) + dot_bytes(code[5], hi.y)       \
                    + dot_bytes(code[6], hi.z) + dot_bytes(code[7], hi.w);        \
                acc[c * ROWS + j] += s.x * dot(w.scale, vec2(a, z));              \
                if (HAS_REST) acc[c * ROWS + j] += dot(rest, s.yz);               \
            }                                                                     \
        }                                                                         \
    }

#define MULTIPLY(acc, b, from) \
    [[unroll]] for (uint i = 0; i < AHEAD; ++i) MULTIPLY_ONE(acc, b, i, from)

// The product of a group with what lies at `place`.
float group_product(Group b, uint place) {
    int lo = 0;
    int hi = 0;
    [[unroll]] for (uint q = 0; q < 4; ++q) {
        lo += dot_bytes(quad_bytes(b, q), rounded[place][q]);
        hi += dot_bytes(quad_bytes(b, q + 4), rounded[place + 1][q]);
    }
    vec3 s = uintBitsToFloat(rounded[place + 2].xyz);
    float sum = s.x * dot(b.scale, vec2(lo, hi));
    if (HAS_REST) sum += dot(b.low - b.scale * b.zero, s.yz);
    return sum;
}
