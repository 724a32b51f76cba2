// Many rows times q8_0: see `mma_gemm.cuh`.
#include "mma_gemm.cuh"

ENTRIES(q8_0)
