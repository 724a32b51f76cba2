// Many rows times q6_k: see `mma_gemm.cuh`.
#include "mma_gemm.cuh"

ENTRIES(q6_k)
