// One row through a mixture in q4_k: see `mixture.cuh`.
#include "mixture.cuh"

ENTRIES(q4_k)
