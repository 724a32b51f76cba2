// op: gated_delta, row by row as the rule says. For each value head, with S [dk, dv]
// its state: q ← q·rsqrt(Σq² + 1e-6)/√dk, k ← k·rsqrt(Σk² + 1e-6), S ←
// exp(decay·softplus(a + dt_bias))·S, S ← S + k·(σ(b)·(v − kᵀS)), o = qᵀS.
// q, k f32 [T, key_heads, dk ≤ 256], v, o f32 [T, value_heads, dv], a, b f32 [T,
// value_heads], decay, dt_bias f32 [value_heads], state f32 [value_heads, dk, dv].
// Launch: a block of 8 warps for each (32 columns of dv, value head, span): warp w
// holds rows w, w + 8, … of S for its lanes' columns in registers. Sums over dk go
// warp by warp in order. Tolerance 1e-4. The rule: Yang et al. 2024.
#include "../common/delta.cuh"

template <int DK>
DEVICE void gated_delta(const Delta& p) {
    Stored source = {p};
    recurrent<DK>(p, source);
}
KERNEL __launch_bounds__(256) gated_delta_128(const __grid_constant__ Delta p) { gated_delta<128>(p); }
KERNEL __launch_bounds__(256) gated_delta_256(const __grid_constant__ Delta p) { gated_delta<256>(p); }
