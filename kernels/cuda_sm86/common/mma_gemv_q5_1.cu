// Few rows times q5_1: see `mma_gemv.cuh`.
#include "quant_blocks.cuh"
#include "mma_gemv.cuh"

LEAST_ENTRIES(q5_1, 2)
