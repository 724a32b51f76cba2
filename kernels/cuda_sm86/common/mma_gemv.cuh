// ops: linear, up to four of them, linear+linear+silu_mul, few rows, block-quantised
// weights; an add behind, for one row a norm ahead or behind that.
// yᵢ[r, n] = Σₖ f16(x[r, k])·wᵢ[n, k] (+ biasᵢ[n]).
// x f32 [R, K], wᵢ [Nᵢ, K] in layout mma16, biasᵢ f32, yᵢ f32.
// `mma_one.cuh` has the kernels for one row, `mma_few.cuh` those for more.
#pragma once
#include "norm_last.cuh"
#include "quant.cuh"
#include "reduce.cuh"
#include "stacked.cuh"

struct Args {
    const float* x;
    const u8* w[MATRICES];
    const float* bias[MATRICES];
    float* y[MATRICES];
    const u32* count;
    // Weights of a norm of x, for one row alone; what is added to y. Null: none.
    const float* norm;
    const float* add;
    // Weights of a norm of y behind what is added, and what it makes, or null.
    const float* behind;
    float* normed;
    u32 k, x_stride, aligned;
    u32 n[MATRICES];
    u32 y_stride[MATRICES];
    u32 chunks, add_stride;
    float eps, offset;
};

enum { MOST_WARPS = 8 };

template <class A, class B>
struct same {
    enum { yes = 0 };
};
template <class A>
struct same<A, A> {
    enum { yes = 1 };
};

#include "mma_few.cuh"
#include "mma_one.cuh"

// Few rows, 8·NT at a time; one row, of which BLOCKS share a multiprocessor.
#define FEW(Q, TILES, NT)                                                                          \
    KERNEL __launch_bounds__(256) few_##Q##_##TILES##_##NT(const __grid_constant__ RoundedArgs p) { \
        few<Q##_t, Q##_t, TILES, NT, false>(p);                                                    \
    }                                                                                              \
    KERNEL __launch_bounds__(256) few_gated_##Q##_##TILES##_##NT(const __grid_constant__ RoundedArgs p) { \
        few<Q##_t, Q##_t, TILES, NT, true>(p);                                                     \
    }
// What every scheme has at least.
#define LEAST_ENTRIES(Q, BLOCKS)                                                                 \
    KERNEL __launch_bounds__(256, BLOCKS) one_##Q(const __grid_constant__ Args p) {              \
        one<Q##_t, false>(p);                                                                    \
    }                                                                                            \
    KERNEL __launch_bounds__(256) few_##Q##_2_2(const __grid_constant__ RoundedArgs p) {         \
        few<Q##_t, Q##_t, 2, 2, false>(p);                                                       \
    }                                                                                            \
    KERNEL __launch_bounds__(256) stacked_##Q(const __grid_constant__ Stacked p) {               \
        stacked<Q##_t, false>(p);                                                                \
    }
#define ENTRIES(Q, BLOCKS)                                                                \
    KERNEL __launch_bounds__(256, BLOCKS) one_##Q(const __grid_constant__ Args p) {       \
        one<Q##_t, false>(p);                                                             \
    }                                                                                     \
    KERNEL __launch_bounds__(256, BLOCKS) one_gated_##Q(const __grid_constant__ Args p) { \
        one<Q##_t, true>(p);                                                              \
    }                                                                                     \
    FEW(Q, 2, 2) FEW(Q, 2, 4) FEW(Q, 4, 4)                                                \
    KERNEL __launch_bounds__(256) stacked_##Q(const __grid_constant__ Stacked p) {        \
        stacked<Q##_t, false>(p);                                                         \
    }                                                                                     \
    KERNEL __launch_bounds__(256) stacked_gated_##Q(const __grid_constant__ Stacked p) {  \
        stacked<Q##_t, true>(p);                                                          \
    }
#define MIXED(Q, L)                                                                                \
    KERNEL __launch_bounds__(256, 2) one_##Q##_##L(const __grid_constant__ Args p) {               \
        one_mixed<Q##_t, L##_t>(p);                                                                \
    }                                                                                              \
    KERNEL __launch_bounds__(256) few_##Q##_##L##_2_2(const __grid_constant__ RoundedArgs p) {     \
        few<Q##_t, L##_t, 2, 2, false>(p);                                                            \
    }
