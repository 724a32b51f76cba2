// Rows times chosen experts in w4_paro: see `grouped.cuh`.
#include "quant_blocks.cuh"
#include "grouped.cuh"

ENTRIES(w4_paro)
