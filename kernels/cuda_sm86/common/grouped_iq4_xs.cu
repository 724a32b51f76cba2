// Rows times chosen experts in iq4_xs: see `grouped.cuh`.
#include "quant_blocks.cuh"
#include "grouped.cuh"

ENTRIES(iq4_xs)
