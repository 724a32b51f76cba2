// Few rows times mxfp4: see `mma_gemv.cuh`.
#include "quant_blocks.cuh"
#include "mma_gemv.cuh"

LEAST_ENTRIES(mxfp4, 2)
