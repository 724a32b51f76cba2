// Many rows times q4_0: see `mma_gemm.cuh`.
#include "mma_gemm.cuh"

ENTRIES(q4_0)
