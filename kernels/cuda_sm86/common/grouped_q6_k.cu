// Rows times chosen experts in q6_k: see `grouped.cuh`.
#include "grouped.cuh"

ENTRIES(q6_k)
