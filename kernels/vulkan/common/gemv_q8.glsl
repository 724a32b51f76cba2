// Products of block schemes with activations rounded to int8, one scale for each
// 32 elements (act q8_32). A workgroup rounds ROWS rows of x into shared memory;
// its teams then multiply bytes, four at a time. Sums of bytes are exact.
//
// The shader declares x and x4 over the activations, p with k and aligned, and
// X_ROW(j) and W_ROW(c) as `gemv.glsl` wants them. Constant 8 is the room for a
// row: K or more.

#extension GL_EXT_integer_dot_product : require

layout(constant_id = 8) const uint WIDTH = 256;
const uint WIDTH_GROUPS = WIDTH / 32;

// Of each group 32 bytes, then its scale and scale·Σ of both halves. Three pieces
// for each, so that neighbouring lanes meet different banks.
shared uvec4 rounded[ROWS * WIDTH_GROUPS * 3];

// The sum of two products of 12-bit halves is exact, so is what is left of a − q·b.
precise float rest_of(float a, float q, float b) {
    float q_top = uintBitsToFloat(floatBitsToUint(q) & 0xfffff000u);
    float b_top = uintBitsToFloat(floatBitsToUint(b) & 0xfffff000u);
    float q_low = q - q_top;
    float b_low = b - b_top;
    return (((a - q_top * b_top) - q_top * b_low) - q_low * b_top) - q_low * b_low;
}

// a / b, rounded to nearest: a shader's own may be 2.5 units in the last place
// off, and a rounding of x would fall otherwise.
precise float divide(float a, float b) {
    float q = a / b;
    return q + rest_of(a, q, b) / b;
}

#define ROUND_X_GROUP(X_AT)                                                       \
    {                                                                             \
        vec4 v[8];                                                                \
        vec4 top4 = vec4(0.0);                                                    \
        [[unroll]] for (uint q = 0; q < 8; ++q) {                                 \
            v[q] = X_AT(j, 8 * g + q);                                            \
            top4 = max(top4, abs(v[q]));                                          \
        }                                                                         \
        float scale = divide(max(max(top4.x, top4.y), max(top4.z, top4.w)), 127.0); \
        float inverse = scale >= 1.17549435e-38 ? divide(1.0, scale) : 0.0;       \
        uvec4 bytes[2];                                                           \
        ivec2 sums = ivec2(0);                                                    \
        [[unroll]] for (uint q = 0; q < 8; ++q) {                                 \
            ivec4 n = ivec4(roundEven(v[q] * inverse));                           \
            sums[q / 4] += n.x + n.y + n.z + n.w;                                 \
            uvec4 u = uvec4(n) & 255u;                                            \
            bytes[q / 4][q & 3u] = u.x | (u.y << 8) | (u.z << 16) | (u.w << 24);  \
        }                                                                         \
        uint to = (j * WIDTH_GROUPS + g) * 3;                                     \
        vec2 s = scale * vec2(sums);                                              \
        rounded[to] = bytes[0];                                                   \
        rounded[to + 1] = bytes[1];                                               \
        rounded[to + 2] = uvec4(floatBitsToUint(scale), floatBitsToUint(s), 0);   \
    }

#define ROUND_X()                                                                 \
    for (uint i = gl_LocalInvocationID.x; i < ROWS * (p.k / 32); i += WG) {       \
        uint j = i / (p.k / 32);                                                  \
        uint g = i % (p.k / 32);                                                  \
        if (p.aligned != 0) {                                                     \
            ROUND_X_GROUP(X_ALIGNED)                                              \
        } else {                                                                  \
            ROUND_X_GROUP(X_SINGLE)                                               \
        }                                                                         \
    }                                                                             \
    workgroup_sync();

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

int dot_bytes(uint a, uint b) {
    return dotPacked4x8EXT(int(a), int(b));
}

// acc[c * ROWS + j] = this lane's share of x[j]·w[c].
#define GEMV_Q8(acc, READ)                                                        \
    for (uint i = 0; i < ROWS * COLS; ++i) acc[i] = 0.0;                          \
    for (uint g = lane; g < p.k / 32; g += TEAM) {                                \
        for (uint c = 0; c < COLS; ++c) {                                         \
            Group b = READ(W_ROW(c), p.k / 32, g);                                \
            uint code[8];                                                         \
            [[unroll]] for (uint q = 0; q < 8; ++q) code[q] = quad_bytes(b, q);   \
            vec2 rest = b.low - b.scale * b.zero;                                 \
            for (uint j = 0; j < ROWS; ++j) {                                     \
                uint from = (j * WIDTH_GROUPS + g) * 3;                           \
                uvec4 lo = rounded[from];                                         \
                uvec4 hi = rounded[from + 1];                                     \
                vec3 s = uintBitsToFloat(rounded[from + 2].xyz);                  \
                int a = dot_bytes(code[0], lo.x) + dot_bytes(code[1], lo.y)       \
                    + dot_bytes(code[2], lo.z) + dot_bytes(code[3], lo.w);        \
                int z = dot_bytes(code[4], hi.x) + dot_bytes(code[5], hi.y)       \
                    + dot_bytes(code[6], hi.z) + dot_bytes(code[7], hi.w);        \
                acc[c * ROWS + j] += s.x * dot(b.scale, vec2(a, z)) + dot(rest, s.yz); \
            }                                                                     \
        }                                                                         \
    }
