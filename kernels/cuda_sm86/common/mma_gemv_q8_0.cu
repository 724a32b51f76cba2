// Few rows times q8_0: see `mma_gemv.cuh`. A module for each scheme, so that a driver
// compiles only what a model has.
#include "mma_gemv.cuh"

ENTRIES(q8_0, 2)
