// Few rows times q5_k: see `mma_gemv.cuh`. A module for each scheme, so that a driver
// compiles only what a model has.
#include "mma_gemv.cuh"

ENTRIES(q5_k, 2)
