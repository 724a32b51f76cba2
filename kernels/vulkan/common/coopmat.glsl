// Products of many rows by cooperative matrices. A workgroup takes a tile of
// TILE_ROWS rows of x and TILE_COLS rows of weights, 32 columns of K at a time: its
// lanes bring the next 32 to shared memory, weights decoded and rounded to 16 bits,
// while its subgroups multiply the last. Sums are f32, over K in order.
//
// With BRAIN the factors are bf16, else f16. With GATED rows of two matrices take
// turns in the tile, CN at a time, so that a lane holds sums of both for the same
// place, and the output is silu(gate)·up.

#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#pragma use_vulkan_memory_model

#ifdef BRAIN
#extension GL_EXT_bfloat16 : require
#define FACTOR bfloat16_t
#else
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#define FACTOR float16_t
#endif

layout(constant_id = 4) const uint SUBGROUP = 32;
// Of one product: rows of x, rows of weights, depth.
layout(constant_id = 5) const uint CM = 16;
layout(constant_id = 6) const uint CN = 16;
layout(constant_id = 7) const uint CK = 16;
layout(constant_id = 8) const uint TILE_ROWS = 128;
layout(constant_id = 9) const uint TILE_COLS = 128;
// Subgroups that share the rows of a tile; the others share its columns.
layout(constant_id = 10) const uint SUB_ROWS = 2;

const uint SUB_COLS = WG / SUBGROUP / SUB_ROWS;
const uint FRAG_ROWS = TILE_ROWS / SUB_ROWS / CM;
const uint FRAG_COLS = TILE_COLS / SUB_COLS / CN;
// Pieces of 16 bytes of a row in shared memory; one more than there are, so that
// neighbouring rows lie in different banks.
const uint PITCH = 5;
const uint X_TILE = TILE_ROWS * PITCH;
const uint STAGE = X_TILE + TILE_COLS * PITCH;
// Pieces of x, and halves of groups of weights, that a lane brings.
const uint X_EACH = (TILE_ROWS * 4 + WG - 1) / WG;
const uint W_EACH = (TILE_COLS * 2 + WG - 1) / WG;

layout(set = 0, binding = 0, scalar) readonly buffer X { uvec4 x[]; };
layout(set = 0, binding = 1, scalar) readonly buffer W { uint w[]; };
layout(set = 0, binding = 1, scalar) readonly buffer W4 { uvec4 w4[]; };
#ifdef GATED
layout(set = 0, binding = 2, scalar) readonly buffer Other { uint other[]; };
layout(set = 0, binding = 2, scalar) readonly buffer Other4 { uvec4 other4[]; };
#endif
layout(set = 0, binding = 3, scalar) readonly buffer Bias { float bias[]; };
layout(set = 0, binding = 4, scalar) readonly buffer OtherBias { float other_bias[]; };
layout(set = 0, binding = 5, scalar) writeonly buffer Y { float y[]; };
STEP_BUFFER(6)

// What is `other` belongs to the second matrix, if there is one.
layout(push_constant, scalar) uniform Push {
    uint rows;
    uint n, k;
    uint x_at;
    uint w_at, other_at, w_stride;
    uint bias_at, has_bias;
    uint other_bias_at, has_other_bias;
    uint y_at, y_stride;
    // Whether whole matrices may be stored to y.
    uint aligned;
} p;

GROUP_READER(read_w, w, w4)
#ifdef GATED
GROUP_READER(read_other, other, other4)
const uint OUT_COLS = TILE_COLS / 2;
#else
const uint OUT_COLS = TILE_COLS;
#endif

shared uvec4 tiles[2 * STAGE];

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
PLAIN_SIXTEEN(plain_w, w4)
#ifdef GATED
PLAIN_SIXTEEN(plain_other, other4)
#endif

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
#ifdef BRAIN
    uvec2 u = floatBitsToUint(vec2(a, b));
    u += 0x7fffu + ((u >> 16) & 1u);
    return (u.x >> 16) | (u.y & 0xffff0000u);
#else
    // Rounded to nearest beforehand: the conversion may do otherwise.
    uvec2 u = floatBitsToUint(vec2(a, b));
    u = (u + 0xfffu + ((u >> 13) & 1u)) & ~0x1fffu;
    return packHalf2x16(uintBitsToFloat(u));
#endif
}

uvec4 rounded_eight(Sixteen s, uint i) {
#ifdef BRAIN
    if (SCHEME == BF16) return s.plain[i];
#else
    if (SCHEME == F16) return s.plain[i];
#endif
    vec4 a = four_values(s, 2 * i);
    vec4 b = four_values(s, 2 * i + 1);
    return uvec4(rounded_pair(a.x, a.y), rounded_pair(a.z, a.w), rounded_pair(b.x, b.y), rounded_pair(b.z, b.w));
}

uvec4 next_x[X_EACH];
Sixteen next_w[W_EACH];

// Loads columns 32g to 32g + 31 of the tile that begins at row r0 and column n0.
void fetch(uint r0, uint n0, uint g) {
    uint lane = gl_LocalInvocationID.x;
    [[unroll]] for (uint e = 0; e < X_EACH; ++e) {
        uint i = lane + e * WG;
        uint row = min(i / 4, TILE_ROWS - 1);
        next_x[e] = x[p.x_at + (r0 + row) * (p.k / 8) + 4 * g + i % 4];
    }
    [[unroll]] for (uint e = 0; e < W_EACH; ++e) {
        uint i = lane + e * WG;
        uint t = i / 2;
        bool second = (i & 1u) == 1;
#ifdef GATED
        uint column = n0 + t / CN / 2 * CN + t % CN;
        bool is_other = (t / CN & 1u) == 1;
#else
        uint column = n0 + t;
#endif
        uint row = min(column, p.n - 1) * p.w_stride;
        uint at = 32 * g + (second ? 16 : 0);
#ifdef GATED
        if (is_other) {
            if (IN_BLOCKS) {
                next_w[e] = half_of(read_other(p.other_at + row, p.k / 32, g), second);
            } else {
                next_w[e] = plain_other(p.other_at + row + at);
            }
            continue;
        }
#endif
        if (IN_BLOCKS) {
            next_w[e] = half_of(read_w(p.w_at + row, p.k / 32, g), second);
        } else {
            next_w[e] = plain_w(p.w_at + row + at);
        }
    }
}

// Puts what `fetch` loaded into stage `s` of shared memory.
void put(uint s) {
    uint lane = gl_LocalInvocationID.x;
    [[unroll]] for (uint e = 0; e < X_EACH; ++e) {
        uint i = lane + e * WG;
        if (i < TILE_ROWS * 4) tiles[s * STAGE + i / 4 * PITCH + i % 4] = next_x[e];
    }
    [[unroll]] for (uint e = 0; e < W_EACH; ++e) {
        uint i = lane + e * WG;
        if (i >= TILE_COLS * 2) continue;
        uint to = s * STAGE + X_TILE + i / 2 * PITCH + (i & 1u) * 2;
        tiles[to] = rounded_eight(next_w[e], 0);
        tiles[to + 1] = rounded_eight(next_w[e], 1);
    }
}

#define SUMS coopmat<float, gl_ScopeSubgroup, CM, CN, gl_MatrixUseAccumulator>

// Where fragment f of the tile's columns begins in its matrix, and whether that is
// the second one.
uint column_of(uint n0, uint f) {
#ifdef GATED
    return n0 + f / 2 * CN;
#else
    return n0 + f * CN;
#endif
}

bool is_other_fragment(uint f) {
#ifdef GATED
    return (f & 1u) == 1;
#else
    return false;
#endif
}

// The bias of a fragment's columns in every row.
SUMS bias_of(uint n0, uint f) {
    uint region = gl_SubgroupID * (CM * CN / 4);
    bool second = is_other_fragment(f);
    uint has = second ? p.has_other_bias : p.has_bias;
    subgroupBarrier();
    for (uint e = gl_SubgroupInvocationID; e < CM * CN / 4; e += SUBGROUP) {
        vec4 v = vec4(0.0);
        for (uint i = 0; i < 4; ++i) {
            uint n = column_of(n0, f) + e % (CN / 4) * 4 + i;
            if (has != 0 && n < p.n) v[i] = second ? other_bias[p.other_bias_at + n] : bias[p.bias_at + n];
        }
        tiles[region + e] = floatBitsToUint(v);
    }
    subgroupBarrier();
    SUMS sums;
    coopMatLoad(sums, tiles, region, CN / 4, gl_CooperativeMatrixLayoutRowMajor);
    return sums;
}

// One matrix of sums to y, element by element if not all of the tile is inside.
void write(SUMS sums, uint row, uint column, uint rows, bool whole) {
    if (whole) {
        coopMatStore(sums, y, p.y_at + row * p.y_stride + column, p.y_stride, gl_CooperativeMatrixLayoutRowMajor);
        return;
    }
    uint region = gl_SubgroupID * (CM * CN / 4);
    subgroupBarrier();
    coopMatStore(sums, tiles, region, CN / 4, gl_CooperativeMatrixLayoutRowMajor);
    subgroupBarrier();
    for (uint e = gl_SubgroupInvocationID; e < CM * CN; e += SUBGROUP) {
        uint r = row + e / CN;
        uint n = column + e % CN;
        if (r < rows && n < p.n) {
            y[p.y_at + r * p.y_stride + n] = uintBitsToFloat(tiles[region + e / 4][e & 3u]);
        }
    }
}

void main() {
    uint rows = REAL_ROWS(p.rows);
    uint r0 = gl_WorkGroupID.x * TILE_ROWS;
    uint n0 = gl_WorkGroupID.y * OUT_COLS;
    if (r0 >= rows) return;
    uint sub_row = gl_SubgroupID / SUB_COLS * FRAG_ROWS;
    uint sub_col = gl_SubgroupID % SUB_COLS * FRAG_COLS;
    SUMS sums[FRAG_ROWS * FRAG_COLS];
    [[unroll]] for (uint i = 0; i < FRAG_ROWS * FRAG_COLS; ++i) sums[i] = SUMS(0.0);
    if (p.has_bias != 0 || p.has_other_bias != 0) {
        [[unroll]] for (uint j = 0; j < FRAG_COLS; ++j) {
            SUMS first = bias_of(n0, sub_col + j);
            [[unroll]] for (uint i = 0; i < FRAG_ROWS; ++i) sums[i * FRAG_COLS + j] = first;
        }
        barrier();
    }
    uint groups = p.k / 32;
    fetch(r0, n0, 0);
    put(0);
    for (uint g = 0; g < groups; ++g) {
        barrier();
        if (g + 1 < groups) fetch(r0, n0, g + 1);
        uint from = (g & 1u) * STAGE;
        [[unroll]] for (uint k = 0; k < 32; k += CK) {
            coopmat<FACTOR, gl_ScopeSubgroup, CM, CK, gl_MatrixUseA> a[FRAG_ROWS];
            [[unroll]] for (uint i = 0; i < FRAG_ROWS; ++i) {
                coopMatLoad(a[i], tiles, from + (sub_row + i) * CM * PITCH + k / 8, PITCH,
                            gl_CooperativeMatrixLayoutRowMajor);
            }
            [[unroll]] for (uint j = 0; j < FRAG_COLS; ++j) {
                coopmat<FACTOR, gl_ScopeSubgroup, CK, CN, gl_MatrixUseB> b;
                coopMatLoad(b, tiles, from + X_TILE + (sub_col + j) * CN * PITCH + k / 8, PITCH,
                            gl_CooperativeMatrixLayoutColumnMajor);
                [[unroll]] for (uint i = 0; i < FRAG_ROWS; ++i) {
                    uint s = i * FRAG_COLS + j;
                    sums[s] = coopMatMulAdd(a[i], b, sums[s]);
                }
            }
        }
        if (g + 1 < groups) put((g + 1) & 1u);
    }
    barrier();
    // The same for all subgroups: some drivers let a whole workgroup meet at a barrier
    // of one of them.
    bool whole = p.aligned != 0 && r0 + TILE_ROWS <= rows && n0 + OUT_COLS <= p.n;
    [[unroll]] for (uint i = 0; i < FRAG_ROWS; ++i) {
        uint row = r0 + (sub_row + i) * CM;
#ifdef GATED
        [[unroll]] for (uint j = 0; j < FRAG_COLS; j += 2) {
            uint s = i * FRAG_COLS + j;
            SUMS product;
            for (uint e = 0; e < product.length(); ++e) product[e] = silu(sums[s][e]) * sums[s + 1][e];
            write(product, row, column_of(n0, sub_col + j), rows, whole);
        }
#else
        [[unroll]] for (uint j = 0; j < FRAG_COLS; ++j) {
            write(sums[i * FRAG_COLS + j], row, column_of(n0, sub_col + j), rows, whole);
        }
#endif
    }
}
