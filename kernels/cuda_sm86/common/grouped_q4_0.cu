// Rows times chosen experts in q4_0: see `grouped.cuh`.
#include "grouped.cuh"

ENTRIES(q4_0)
