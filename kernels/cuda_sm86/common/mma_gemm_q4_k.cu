// Many rows times q4_k: see `mma_gemm.cuh`.
#include "mma_gemm.cuh"

ENTRIES(q4_k)
