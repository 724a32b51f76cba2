// Rows times chosen experts in q4_k: see `grouped.cuh`.
#include "grouped.cuh"

ENTRIES(q4_k)
