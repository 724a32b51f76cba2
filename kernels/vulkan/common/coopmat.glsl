// Products of many rows by cooperative matrices. A workgroup takes a tile of
// TILE_ROWS rows of x and TILE_COLS rows of weights, 32 columns of K at a time: its
// lanes bring the next 32 to shared memory, weights decoded and rounded to 16 bits,
// while its subgroups multiply the last. Sums are f32, over K in order.
//
// With BRAIN the factors are bf16, else f16. With GATED rows of two matrices take
// turns in the tile, CN at a time, so that a lane holds sums of both for the same
// place, and the output is silu(gate)·up.
//
// With EXPERTS a tile has rows of one expert, found in the lists that
// `expert_tiles.comp` made, and weights are those of its matrix.

#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#pragma use_vulkan_memory_model

#ifdef BRAIN
#extension GL_EXT_bfloat16 : require
#define FACTOR bfloat16_t
const bool TO_BF16 = true;
#else
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#define FACTOR float16_t
const bool TO_BF16 = false;
#endif
#include "sixteen.glsl"

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
#ifdef EXPERTS
    // Vectors of a row of y, and whether x has as many.
    uint vectors, x_vectors;
    // In words of the lists.
    uint order_at, tiles_at;
    // Those whose matrices are bound.
    uint first_expert, experts;
#endif
} p;

#ifdef EXPERTS
layout(set = 0, binding = 7, scalar) readonly buffer Lists { uint lists[]; };
uint tile_order;
uint tile_rows;
uint matrix_row;
uint bias_row;

// The vector of row r of the tile, counted through all rows of y.
uint vector_of(uint r) {
    return lists[tile_order + min(r, tile_rows - 1)];
}

uint x_place(uint r) {
    uint v = vector_of(r);
    return p.x_at + (p.x_vectors != 0 ? v : v / p.vectors) * (p.k / 8);
}

uint y_place(uint r) {
    uint v = vector_of(r);
    return p.y_at + v / p.vectors * p.y_stride + v % p.vectors * p.n;
}
#else
const uint matrix_row = 0;
const uint bias_row = 0;

uint x_place(uint r) {
    return p.x_at + r * (p.k / 8);
}

uint y_place(uint r) {
    return p.y_at + r * p.y_stride;
}
#endif

GROUP_READER(read_w, w, w4)
#ifdef GATED
GROUP_READER(read_other, other, other4)
const uint OUT_COLS = TILE_COLS / 2;
#else
const uint OUT_COLS = TILE_COLS;
#endif

shared uvec4 tiles[2 * STAGE];

PLAIN_SIXTEEN(plain_w, w4)
#ifdef GATED
PLAIN_SIXTEEN(plain_other, other4)
#endif

// Where the pieces of x that a lane brings begin.
uint x_from[X_EACH];
uvec4 next_x[X_EACH];
Sixteen next_w[W_EACH];

void find_x(uint r0) {
    [[unroll]] for (uint e = 0; e < X_EACH; ++e) {
        uint i = gl_LocalInvocationID.x + e * WG;
        x_from[e] = x_place(r0 + min(i / 4, TILE_ROWS - 1)) + i % 4;
    }
}

// Loads columns 32g to 32g + 31 of the tile whose weights begin at column n0.
void fetch(uint n0, uint g) {
    uint lane = gl_LocalInvocationID.x;
    [[unroll]] for (uint e = 0; e < X_EACH; ++e) next_x[e] = x[x_from[e] + 4 * g];
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
        uint row = (matrix_row + min(column, p.n - 1)) * p.w_stride;
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
            if (has != 0 && n < p.n) v[i] = second ? other_bias[p.other_bias_at + n] : bias[p.bias_at + bias_row + n];
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
            y[y_place(r) + n] = uintBitsToFloat(tiles[region + e / 4][e & 3u]);
        }
    }
}

void main() {
    uint n0 = gl_WorkGroupID.y * OUT_COLS;
#ifdef EXPERTS
    if (gl_WorkGroupID.x >= lists[p.tiles_at]) return;
    uint tile = p.tiles_at + 1 + 3 * gl_WorkGroupID.x;
    uint expert = lists[tile];
    if (expert - p.first_expert >= p.experts) return;
    tile_order = p.order_at + lists[tile + 1];
    tile_rows = lists[tile + 2];
    matrix_row = (expert - p.first_expert) * p.n;
    bias_row = expert * p.n;
    uint r0 = 0;
    uint rows = tile_rows;
#else
    uint rows = REAL_ROWS(p.rows);
    uint r0 = gl_WorkGroupID.x * TILE_ROWS;
    if (r0 >= rows) return;
#endif
    find_x(r0);
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
    fetch(n0, 0);
    put(0);
    for (uint g = 0; g < groups; ++g) {
        barrier();
        if (g + 1 < groups) fetch(n0, g + 1);
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
