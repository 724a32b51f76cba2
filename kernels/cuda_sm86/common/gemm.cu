// ops: linear, many rows of f16 or bf16 weights: see `gemm.cuh`.
#include "gemm.cuh"

KERNEL round_f16(const Round p) { round_rows<f16_t>(p); }
KERNEL round_bf16(const Round p) { round_rows<bf16_t>(p); }
KERNEL __launch_bounds__(256) gemm_f16(const Gemm p) { gemm<f16_t>(p); }
KERNEL __launch_bounds__(256) gemm_bf16(const Gemm p) { gemm<bf16_t>(p); }
