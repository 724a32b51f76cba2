// Few rows times w4_paro: see `mma_gemv.cuh`.
#include "quant_blocks.cuh"
#include "mma_gemv.cuh"

LEAST_ENTRIES(w4_paro, 2)
