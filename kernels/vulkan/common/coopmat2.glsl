// Products of many rows by matrices that a whole workgroup multiplies as one
// (GL_NV_cooperative_matrix2). A workgroup takes a tile of TILE_ROWS rows of x and
// TILE_COLS rows of weights, TILE_K columns of K at a time, straight from buffers in
// bf16: the driver stages them. Rows up to whole tiles are there on both sides; what
// they hold past the last is not stored. Sums are f32, over K in order.
//
// With EXPERTS a tile has rows of one expert, found in the lists that
// `expert_tiles.comp` made; x lies in the experts' order, weights are those of the
// expert's matrix, and sums go to the vectors from which their rows of x came.

#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_NV_cooperative_matrix2 : require
#extension GL_EXT_bfloat16 : require
#pragma use_vulkan_memory_model

layout(constant_id = 3) const uint TILE_ROWS = 128;
layout(constant_id = 4) const uint TILE_COLS = 128;
layout(constant_id = 5) const uint TILE_K = 32;

layout(set = 0, binding = 0, scalar) readonly buffer X { bfloat16_t x[]; };
layout(set = 0, binding = 1, scalar) readonly buffer W { bfloat16_t w[]; };
layout(set = 0, binding = 2, scalar) readonly buffer Bias { float bias[]; };
layout(set = 0, binding = 3, scalar) buffer Y { float y[]; };
STEP_BUFFER(4)

// x_at counts pieces of eight, K and what weights begin at are multiples of eight.
layout(push_constant, scalar) uniform Push {
    uint rows;
    uint n, k;
    uint x_at;
    uint w_at, w_stride;
    uint bias_at, has_bias;
    uint y_at, y_stride;
#ifdef EXPERTS
    // Vectors of a row of y.
    uint vectors;
    // In words of the lists.
    uint order_at, tiles_at;
    // Those whose matrices are bound.
    uint first_expert, experts;
#endif
} p;

#ifdef EXPERTS
layout(set = 0, binding = 5, scalar) readonly buffer Lists { uint lists[]; };
// Where in y each of the tile's rows begins.
shared uint places[TILE_ROWS];
#endif

#define SUMS coopmat<float, gl_ScopeWorkgroup, TILE_ROWS, TILE_COLS, gl_MatrixUseAccumulator>
#define LEFT coopmat<bfloat16_t, gl_ScopeWorkgroup, TILE_ROWS, TILE_K, gl_MatrixUseA>
#define RIGHT coopmat<bfloat16_t, gl_ScopeWorkgroup, TILE_K, TILE_COLS, gl_MatrixUseB>

#ifndef EXPERTS
float plus_bias(const in uint row, const in uint column, const in float v, const in uint n0) {
    return v + bias[p.bias_at + min(n0 + column, p.n - 1)];
}
#else
float plus_expert_bias(const in uint row, const in uint column, const in float v, const in uint n0, const in uint first) {
    return v + bias[first + min(n0 + column, p.n - 1)];
}

// Stores what is there of the tile.
float to_places(const in uint row, const in uint column, const in float v, const in uint n0, const in uint rows) {
    if (row < rows && n0 + column < p.n) y[places[row] + n0 + column] = v;
    return v;
}
#endif

void main() {
    uint n0 = gl_WorkGroupID.y * TILE_COLS;
#ifdef EXPERTS
    // Both are read before either is looked at: most workgroups end here.
    uint tile = p.tiles_at + 1 + 3 * gl_WorkGroupID.x;
    uint expert = lists[tile];
    bool there = gl_WorkGroupID.x < lists[p.tiles_at];
    if (!there || expert - p.first_expert >= p.experts) return;
    uint r0 = lists[tile + 1];
    uint rows = lists[tile + 2];
    uint w0 = (expert - p.first_expert) * p.n + n0;
    for (uint i = gl_LocalInvocationID.x; i < TILE_ROWS; i += WG) {
        uint v = lists[p.order_at + r0 + min(i, rows - 1)];
        places[i] = p.y_at + v / p.vectors * p.y_stride + v % p.vectors * p.n;
    }
    barrier();
#else
    uint rows = REAL_ROWS(p.rows);
    uint r0 = gl_WorkGroupID.x * TILE_ROWS;
    uint w0 = n0;
    if (r0 >= rows) return;
#endif
    // Multiples of eight, so that the compiler knows of whole pieces.
    uint k = p.k & ~7u;
    uint stride = p.w_stride & ~7u;
    uint x_at = p.x_at * 8;
    uint w_at = p.w_at & ~7u;
    tensorLayoutNV<2> left_layout = createTensorLayoutNV(2);
    tensorLayoutNV<2> right_layout = createTensorLayoutNV(2);
    left_layout = setTensorLayoutDimensionNV(left_layout, r0 + TILE_ROWS, k);
    left_layout = setTensorLayoutStrideNV(left_layout, k, 1);
    right_layout = setTensorLayoutDimensionNV(right_layout, w0 + TILE_COLS, k);
    right_layout = setTensorLayoutStrideNV(right_layout, stride, 1);
    tensorViewNV<2, false, 1, 0> transposed = createTensorViewNV(2, false, 1, 0);
    SUMS sums = SUMS(0.0);
    [[dont_unroll]] for (uint i = 0; i < k; i += TILE_K) {
        LEFT a;
        RIGHT b;
        coopMatLoadTensorNV(a, x, x_at, sliceTensorLayoutNV(left_layout, r0, TILE_ROWS, i, TILE_K));
        coopMatLoadTensorNV(
            b, w, w_at, sliceTensorLayoutNV(right_layout, w0, TILE_COLS, i, TILE_K), transposed);
        sums = coopMatMulAdd(a, b, sums);
    }
#ifdef EXPERTS
    if (p.has_bias != 0) {
        coopMatPerElementNV(sums, sums, plus_expert_bias, n0, p.bias_at + expert * p.n);
    }
    coopMatPerElementNV(sums, sums, to_places, n0, rows);
#else
    if (p.has_bias != 0) coopMatPerElementNV(sums, sums, plus_bias, n0);
    tensorLayoutNV<2, gl_CooperativeMatrixClampModeConstantNV> out_layout =
        createTensorLayoutNV(2, gl_CooperativeMatrixClampModeConstantNV);
    out_layout = setTensorLayoutDimensionNV(out_layout, rows, p.n);
    out_layout = setTensorLayoutStrideNV(out_layout, p.y_stride, 1);
    coopMatStoreTensorNV(sums, y, p.y_at, sliceTensorLayoutNV(out_layout, r0, TILE_ROWS, n0, TILE_COLS));
#endif
}
