// Few rows times three matrices, the last in another scheme: see `mma_gemv.cuh`.
#include "mma_gemv.cuh"

MIXED(q4_k, q5_k)
MIXED(q4_k, q6_k)
MIXED(q5_k, q6_k)
