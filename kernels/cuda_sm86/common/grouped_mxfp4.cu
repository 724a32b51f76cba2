// Rows times chosen experts in mxfp4: see `grouped.cuh`.
#include "quant_blocks.cuh"
#include "grouped.cuh"

ENTRIES(mxfp4)
