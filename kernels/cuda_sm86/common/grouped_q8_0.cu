// Rows times chosen experts in q8_0: see `grouped.cuh`.
#include "grouped.cuh"

ENTRIES(q8_0)
