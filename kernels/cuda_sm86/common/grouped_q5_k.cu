// Rows times chosen experts in q5_k: see `grouped.cuh`.
#include "grouped.cuh"

ENTRIES(q5_k)
