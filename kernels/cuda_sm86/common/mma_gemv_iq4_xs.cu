// Few rows times iq4_xs: see `mma_gemv.cuh`.
#include "quant_blocks.cuh"
#include "mma_gemv.cuh"

LEAST_ENTRIES(iq4_xs, 2)
