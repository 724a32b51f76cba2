// Few rows times iq4_nl: see `mma_gemv.cuh`.
#include "quant_blocks.cuh"
#include "mma_gemv.cuh"

LEAST_ENTRIES(iq4_nl, 2)
