// Many rows times q5_k: see `mma_gemm.cuh`.
#include "mma_gemm.cuh"

ENTRIES(q5_k)
