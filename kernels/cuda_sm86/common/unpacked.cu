// ops: linear, many rows of block-quantised weights that are brought to bf16 first:
// `unpack.cuh`, then `gemm.cuh`. A module of its own, so that a driver compiles it only
// for models that have such weights.
#include "gemm.cuh"
#include "unpack.cuh"

KERNEL round_bf16(const Round p) { round_rows<bf16_t>(p); }
KERNEL __launch_bounds__(256) gemm_bf16(const Gemm p) { gemm<bf16_t>(p); }
