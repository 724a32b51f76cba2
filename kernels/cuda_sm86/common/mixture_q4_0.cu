// One row through a mixture in q4_0: see `mixture.cuh`.
#include "mixture.cuh"

ENTRIES(q4_0)
